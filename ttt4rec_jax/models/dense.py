"""Initial values, and the small dense networks that models are made of."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ttt4rec_jax.config import ModelConfig

EMBEDDING_RANGE = 0.02
SWIGLU_MULTIPLE = 16  # of SwiGLU's width


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float | jax.Array) -> nnx.Param:
    """Return a parameter drawn from N(0, std^2)."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape))


def draw_xavier(model: nnx.Module, rngs: nnx.Rngs) -> None:
    """Draw a model's weights and embeddings anew: uniform within +-sqrt(6 / (rows + columns)).

    Glorot and Bengio 2010, eq. 16. Parameters of one axis (biases, scales) stay as they are; of
    those of more than two axes, the last two are the rows and columns.
    """
    state = nnx.state(model, nnx.Param)

    def drawn(x: jax.Array) -> jax.Array:
        if x.ndim < 2:
            return x
        limit = math.sqrt(6 / (x.shape[-2] + x.shape[-1]))
        return jax.random.uniform(rngs.params(), x.shape, x.dtype, -limit, limit)

    nnx.update(model, jax.tree.map(drawn, state))


class Mlp(nnx.Module):
    """Two affine maps [D, hidden] and [hidden, D] with an activation in between.

    Initial weights are Lecun-normal, or N(0, std^2) if std is given; initial biases 0.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        activation: Callable[[jax.Array], jax.Array],
        rngs: nnx.Rngs,
        std: float | jax.Array | None = None,
    ):
        self.w1 = normal(rngs, (dim, hidden), dim**-0.5 if std is None else std)
        self.b1 = nnx.Param(jnp.zeros(hidden))
        self.w2 = normal(rngs, (hidden, dim), hidden**-0.5 if std is None else std)
        self.b2 = nnx.Param(jnp.zeros(dim))
        self.activation = activation

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return the network's outputs, row by row."""
        return self.activation(x @ self.w1[...] + self.b1[...]) @ self.w2[...] + self.b2[...]


class SwiGlu(nnx.Module):
    """(silu(x W_1) * x W_3) W_2 without biases (Shazeer 2020, arXiv:2002.05202, eq. 6).

    The hidden width is 8/3 of D, rounded up to a multiple of 16: 2048 for a D of 768, 2736 for
    1024, as in the TTT paper's code (ttt-lm-jax, ttt/models/model.py). Initial weights: N(0, std).
    """

    def __init__(self, dim: int, rngs: nnx.Rngs, std: float | jax.Array):
        hidden = -(-8 * dim // (3 * SWIGLU_MULTIPLE)) * SWIGLU_MULTIPLE
        self.w1 = normal(rngs, (dim, hidden), std)
        self.w2 = normal(rngs, (hidden, dim), std)
        self.w3 = normal(rngs, (dim, hidden), std)

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return the network's outputs, row by row."""
        return (jax.nn.silu(x @ self.w1[...]) * (x @ self.w3[...])) @ self.w2[...]


class TanhLayer(nnx.Module):
    """tanh(x W + b), width D to D; initial weights Lecun-normal, initial biases 0."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.w = normal(rngs, (dim, dim), dim**-0.5)
        self.b = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return the layer's outputs, row by row."""
        return jnp.tanh(x @ self.w[...] + self.b[...])


def feed_forward(
    config: ModelConfig, rngs: nnx.Rngs, std: float | jax.Array | None = None
) -> Mlp | SwiGlu | None:
    """Return the feed-forward network of a block that --ffn names.

    std: of the initial weights; without it gelu's are Lecun-normal and swiglu's those of the TTT
    paper's code with its default, N(0, .02).
    """
    if config.ffn == "none":
        return None
    if config.ffn == "swiglu":
        return SwiGlu(config.dim, rngs, EMBEDDING_RANGE if std is None else std)
    return Mlp(config.dim, 4 * config.dim, jax.nn.gelu, rngs, std)
