"""Matrix products and means in forms that XLA computes fast, forward and backward.

The values are those of `x @ y` and `x.mean(-1, keepdims=True)`. The special forms are for CPUs, as
measured by experiments/benchmarks/layer.py; other platforms use the plain form.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def on_cpu() -> bool:
    """Return whether programs are traced for a CPU."""
    return jax.default_backend() == "cpu"


def mean(x: Float[Array, "*rows F"]) -> Float[Array, "*rows 1"]:
    """Return the mean over the last axis, which is kept.

    On a CPU it is computed as a product with a column, because XLA reduces short rows slowly there.
    """
    width = x.shape[-1]
    if not on_cpu():
        return x.mean(-1, keepdims=True)
    return jnp.matmul(x, jnp.full((width, 1), 1 / width, x.dtype), precision="highest")


def transposed(x_ixj: Float[Array, "i j"]) -> Float[Array, "j i"]:
    """Return the transpose; on a CPU as a new array.

    Without the barrier, XLA on a CPU multiplies by the transpose in place, which is far slower.
    """
    return jax.lax.optimization_barrier(x_ixj.T) if on_cpu() else x_ixj.T


@jax.custom_vjp
def gram(x_ixF: Float[Array, "i F"], y_jxF: Float[Array, "j F"]) -> Float[Array, "i j"]:
    """Return the inner products of rows [i, j]."""
    return x_ixF @ y_jxF.T


gram.defvjp(
    lambda x, y: (x @ y.T, (x, y)), lambda saved, d: (d @ saved[1], transposed(d) @ saved[0])
)


@jax.custom_vjp
def matmul(x_ixj: Float[Array, "i j"], y_jxF: Float[Array, "j F"]) -> Float[Array, "i F"]:
    """Return x y: weighted sums of the rows of y, or rows of x times parameters y.

    Do not vmap it over only one argument: the gradient of the other would be computed for each
    element and then summed.
    """
    return x_ixj @ y_jxF


matmul.defvjp(
    lambda x, y: (x @ y, (x, y)), lambda saved, d: (d @ saved[1].T, transposed(saved[0]) @ d)
)


def project(x: Float[Array, "*rows D"], theta: Float[Array, "D E"]) -> Float[Array, "*rows E"]:
    """Return x theta for the rows x [..., D] of a whole batch; see `matmul`."""
    return matmul(x.reshape(-1, x.shape[-1]), theta).reshape(*x.shape[:-1], -1)
