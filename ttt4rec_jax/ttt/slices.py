"""A large batch of sequences in slices whose arrays stay in a CPU's cache.

Between its matrix products, a layer reads and writes arrays as large as its input many times. On a
CPU those of a large batch come from main memory, and the memory of the intermediate values is
requested from the system again in each call, which costs more than to compute them once more. So
the gradient computes the outputs of a slice again, and then only the layer's inputs are kept.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ttt4rec_jax.ttt.matmul import on_cpu

# Numbers in the widest array of a slice: 400 KB in float32. On two AMD EPYC cores, for TTT-Linear
# at D = 64, half as many were as good, and twice as many slower at 50 tokens; half of MANY was
# faster uncut.
USUAL = 102_400
MANY = 4 * USUAL
LEAST = 8  # sequences of a slice; fewer were slower
# Numbers in the fast weights of a slice that are read and written at each token. On two Intel Xeon
# cores, for TTT-MLP at F = 32 and two heads, twice as many were slower by 8 to 39%.
CARRIED = 65_536


def num_slices(batch_size: Any, length: int, width: int, carried: int = 0) -> int:
    """Return the number of slices for so many sequences; 1 unless they are many, on one CPU.

    On several devices the sequences are spread over them, and a slice would be on one alone. An
    export's program is for any number of sequences. width: the numbers in the widest of the rows
    that the layer computes for a token. carried: those in a sequence's fast weights, if each token
    reads and writes them.
    """
    if not on_cpu() or jax.device_count() > 1 or not isinstance(batch_size, int):
        return 1
    count = batch_size * length * width
    if count < MANY:
        return 1
    size = max(LEAST, batch_size * USUAL // count)
    if carried:
        size = min(size, max(1, CARRIED // carried))
    return -(-batch_size // size)


def by_slices(
    layer: Callable[[jax.Array, jax.Array], jax.Array],
    slices: int,
    x_BxLxD: Float[Array, "B L D"],
    length_B: Int[Array, " B"],
) -> Float[Array, "B L_or_1 D"]:
    """Return layer(x, length), computed for one of so many slices of the batch at a time.

    The last slice is filled up with empty sequences.
    """
    if slices == 1:
        return layer(x_BxLxD, length_B)
    batch_size = len(x_BxLxD)
    size = -(-batch_size // slices)
    missing = slices * size - batch_size

    def cut(x):  # [B, ...] -> [slices, size, ...]
        x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(slices, size, *x.shape[1:])

    # a loop keeps the second computation apart from the first without barriers of its own
    again = jax.checkpoint(layer, prevent_cse=False)
    outputs = jax.lax.map(lambda args: again(*args), (cut(x_BxLxD), cut(length_B)))
    return outputs.reshape(slices * size, *outputs.shape[2:])[:batch_size]
