"""Training, judging and serving sequential recommenders built on test-time-training layers, in JAX."""

__all__ = ["Recommender"]


def __getattr__(name: str):
    """Recommender, imported when it is asked for: it brings JAX, which --help and a wrong flag need not wait for."""
    if name == "Recommender":
        from ttt4rec_jax.serving.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
