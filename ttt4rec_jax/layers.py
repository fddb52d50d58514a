"""What models share: RMSNorm, feed-forward network, target tower, dropout."""

import jax
import jax.numpy as jnp
from flax import nnx


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """A parameter drawn from N(0, std^2)."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape))


def dropout(x, rate: float, key):
    """Zeroes a share `rate` of x and scales up the rest; the identity without a key (evaluation)."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


class RMSNorm(nnx.Module):
    """x / RMS(x) * scale over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, dim: int, eps: float = 1e-6):
        self.scale, self.eps = nnx.Param(jnp.ones(dim)), eps

    def __call__(self, x):
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps) * self.scale[...]


class Mlp(nnx.Module):
    """Two affine maps [D, hidden], [hidden, D] with an activation in between; Lecun-normal weights, no bias at first."""

    def __init__(self, dim: int, hidden: int, activation, rngs: nnx.Rngs):
        self.w1, self.b1 = normal(rngs, (dim, hidden), dim**-0.5), nnx.Param(jnp.zeros(hidden))
        self.w2, self.b2 = normal(rngs, (hidden, dim), hidden**-0.5), nnx.Param(jnp.zeros(dim))
        self.activation = activation

    def __call__(self, x):
        return self.activation(x @ self.w1[...] + self.b1[...]) @ self.w2[...] + self.b2[...]
