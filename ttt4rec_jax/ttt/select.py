"""The choice among the implementations of the TTT layer's core: scan, dual and chunked."""

from ttt4rec_jax.ttt.inner import INNER_LEARNERS
from ttt4rec_jax.ttt.params import TttConfig

# Measured on CPUs at F = 32, by experiments/benchmarks/layer.py --impls=chunked --chunks=25,50. Up
# to 50 tokens one chunk is fastest; beyond them chunks of about 25 are, by 3 to 25% against 50.
ONE_CHUNK = 50
SHORTEST = 16
USUAL = 25
LONGEST = 40
# The dual form of TTT-Linear at this length or more, for these sizes of mini-batches: faster by 3
# to 14%, also where only the last position is read. Elsewhere it was faster in some cases only.
LONG = 100
DUAL = range(10, 21)


def select_impl(length: int, mini_batch_size: int, inner: str) -> tuple[str, int]:
    """Return the fastest implementation for a shape and its chunk length: (impl, chunk).

    chunk is 0 for an inner learner that has no chunked form.
    """
    if inner == "linear":
        impl = "dual" if length >= LONG and mini_batch_size in DUAL else "chunked"
        return impl, chunk_length(length, mini_batch_size)
    learner = INNER_LEARNERS.get(inner)
    return ("dual" if learner is not None and learner.is_affine_stack else "scan"), 0


def chosen_impl(config: TttConfig, length: int) -> tuple[str, int]:
    """Return the implementation that a layer uses for a length, and its chunk length."""
    impl, chunk = select_impl(length, config.mini_batch_size, config.inner)
    return (impl if config.impl == "auto" else config.impl), config.chunk or chunk


def chunk_length(length: int, mini_batch_size: int) -> int:
    """Return whole mini-batches' tokens, so many that few slots of the last chunk stay empty."""
    b = mini_batch_size
    if length <= ONE_CHUNK:
        return max(b, length)
    choices = [c for c in range(b, LONGEST + 1, b) if c >= SHORTEST] or [b]
    return min(choices, key=lambda c: (-(-length // c) * c, abs(c - USUAL)))
