"""The registries of models and inner learners, to which tests add some of their own."""

import contextlib

from ttt4rec_jax.config import MODELS
from ttt4rec_jax.config.models import CUSTOM, INNER
from ttt4rec_jax.ttt.inner import INNER_LEARNERS


@contextlib.contextmanager
def registries_restored():
    """Restore the registries of models and inner learners at the end."""
    registries = (MODELS, CUSTOM, INNER_LEARNERS)
    before = [dict(registry) for registry in registries]
    names = list(INNER)
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)
    INNER[:] = names
