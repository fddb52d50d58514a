"""Data of the Python interface's tests, and what they register, forgotten afterwards."""

import pytest
from helpers import registries_restored
from own_models import TINY

import ttt4rec_jax as t4r


@pytest.fixture(autouse=True)
def registries():
    """Forget models and inner learners that a test registers."""
    with registries_restored():
        yield


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
