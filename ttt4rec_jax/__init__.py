"""Train, evaluate and serve sequential recommenders with test-time-training layers, in JAX."""

from typing import Any

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    """Import Recommender on first use, since it imports JAX, which --help does not need."""
    if name == "Recommender":
        from ttt4rec_jax.serving.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
