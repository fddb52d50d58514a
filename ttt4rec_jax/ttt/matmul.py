"""Matrix products and means in the forms that XLA multiplies fast, forwards and backwards.

Values are those of `x @ y` and `x.mean(-1, keepdims=True)`. What is special is for CPUs, measured
by experiments/benchmarks/layer.py; other platforms get the plain form.
"""

import jax
import jax.numpy as jnp


def on_cpu() -> bool:
    """Whether programs are traced for a CPU."""
    return jax.default_backend() == "cpu"


def mean(x):
    """Mean over the last axis, which is kept. On a CPU a product with a column: XLA's reductions of short rows are slower."""
    width = x.shape[-1]
    if not on_cpu():
        return x.mean(-1, keepdims=True)
    return jnp.matmul(x, jnp.full((width, 1), 1 / width, x.dtype), precision="highest")


def turned(x_ixj):
    """The transpose; on a CPU as an array: XLA otherwise multiplies by it in place there, at a fraction of the speed."""
    return jax.lax.optimization_barrier(x_ixj.T) if on_cpu() else x_ixj.T


@jax.custom_vjp
def gram(x_ixF, y_jxF):
    """Inner products of rows [i, j]."""
    return x_ixF @ y_jxF.T


gram.defvjp(lambda x, y: (x @ y.T, (x, y)), lambda saved, d: (d @ saved[1], turned(d) @ saved[0]))


@jax.custom_vjp
def mix(weights_ixj, y_jxF):
    """Weighted sums of rows [i, F]; also x theta for rows x [T, D].

    Not to be vmapped over one argument alone: the other's gradient would be computed for each, and
    then added up.
    """
    return weights_ixj @ y_jxF


mix.defvjp(lambda w, y: (w @ y, (w, y)), lambda saved, d: (d @ saved[1].T, turned(saved[0]) @ d))


def project(x, theta):
    """x theta for rows x [..., D] of a whole batch; see `mix`."""
    return mix(x.reshape(-1, x.shape[-1]), theta).reshape(*x.shape[:-1], -1)
