"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) on half-split features.

Two features that are rotated together are adjacent in the interleaved order (0, 1), (2, 3), ... and
half a width apart in the half-split order, in which the rotation needs no shuffle.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def deinterleave(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*shape"]:
    """Return x with the features of an axis in the order 0, 2, 4, ..., 1, 3, 5, ..."""
    axis %= x.ndim
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    return pairs.swapaxes(axis, axis + 1).reshape(x.shape)


def rotate(
    x_LxF: Float[Array, "L F"], positions_L: Int[Array | np.ndarray, " L"], theta: float
) -> Float[Array, "L F"]:
    """Return half-split features rotated by their positions."""
    width = x_LxF.shape[-1]
    # The sines of positions that are known when the program is traced become constants. XLA would
    # compute traced ones again in every fusion that uses them.
    xp = np if isinstance(positions_L, np.ndarray) else jnp
    angles = positions_L[:, None] * theta ** (-np.arange(0, width, 2, dtype=x_LxF.dtype) / width)
    cos, sin = (jnp.asarray(table, x_LxF.dtype) for table in (xp.cos(angles), xp.sin(angles)))
    even = x_LxF[:, : width // 2]
    odd = x_LxF[:, width // 2 :]
    return jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], -1)
