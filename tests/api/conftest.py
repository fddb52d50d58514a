"""Data of the Python interface's tests, and what they register, forgotten afterwards."""

import pytest

import ttt4rec_jax as t4r
from ttt4rec_jax.config import MODELS
from ttt4rec_jax.config.models import CUSTOM, INNER
from ttt4rec_jax.ttt.inner import INNER_LEARNERS

TINY = {"dim": 8, "max_len": 5, "epochs": 2, "learning_rate": 0.005, "progress": False}


@pytest.fixture(autouse=True)
def registries():
    """Forget models and inner learners that a test registers."""
    before = [dict(MODELS), dict(CUSTOM), dict(INNER_LEARNERS)]
    names = list(INNER)
    yield
    for registry, content in zip((MODELS, CUSTOM, INNER_LEARNERS), before, strict=True):
        registry.clear()
        registry.update(content)
    INNER[:] = names


@pytest.fixture(autouse=True)
def caches(environment, monkeypatch):
    """Prepare data in the folder of this test run."""
    monkeypatch.setenv("TTT4REC_CACHE_DIR", environment["TTT4REC_CACHE_DIR"])


@pytest.fixture(scope="module")
def data(environment):
    return t4r.prepare("synthetic", cache_dir=environment["TTT4REC_CACHE_DIR"])


@pytest.fixture(scope="module")
def run(data):
    return t4r.train(data, "sasrec", **TINY)
