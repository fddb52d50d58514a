"""The choice among the implementations of the TTT layer's core: scan, dual and chunked."""

from ttt4rec_jax.ttt.chunked import CHUNK
from ttt4rec_jax.ttt.inner import INNER_LEARNERS


def select_impl(length: int, mini_batch_size: int, inner: str) -> tuple[str, int]:
    """Return the fastest implementation for a shape and its chunk length: (impl, chunk).

    The choice follows measurements by experiments/benchmarks/layer.py. chunk is 0 for
    implementations other than "chunked".
    """
    if inner == "linear":
        chunks = max(1, -(-length // CHUNK))  # chunks of equal length, so that none is nearly empty
        return "chunked", max(mini_batch_size, -(-length // chunks))
    learner = INNER_LEARNERS.get(inner)
    return ("dual" if learner is not None and learner.is_affine_stack else "scan"), 0
