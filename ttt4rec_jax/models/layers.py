"""Layers that models share: blocks, attention, the table of items, towers, dropout."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped, UInt32

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.dense import EMBEDDING_RANGE, Mlp, TanhLayer, normal
from ttt4rec_jax.models.gap_embeddings import GapEmbeddings
from ttt4rec_jax.models.interface import Key


def hashed_bits(key: jax.Array, shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """Return 32 random bits per element: a multiply-xorshift hash of its index and the key's words.

    Good enough for dropout masks, at a twentieth of threefry's cost on a CPU; negatives and
    parameters are drawn by jax.random. Multipliers: lowbias32, C. Wellons, "Prospecting for Hash
    Functions" (2018).
    """
    first, *_, last = jax.random.key_data(key).reshape(-1)
    x = jax.lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(0x9E3779B9)
    for word in (first, last):
        x = x + word
        x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return (x ^ (x >> 16)).reshape(shape)


def dropout(x: Float[Array, "*shape"], rate: float, key: Key) -> Float[Array, "*shape"]:
    """Zero a fraction `rate` of x and scale up the rest; do nothing without a key (evaluation).

    This replaces nnx.Dropout for speed: see `hashed_bits`.
    """
    if key is None or rate == 0:
        return x
    kept = hashed_bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x / (1 - rate), 0)


def split_key(key: Key, count: int) -> list[Any]:
    """Return `count` dropout keys; without a key, `count` times None."""
    if key is None:
        return [None] * count
    keys = jax.random.split(key, count)
    return [keys[i] for i in range(count)]


def last_valid(
    x_BxLxD: Shaped[Array, "B L D"], length_B: Int[Array, " B"]
) -> Shaped[Array, "B 1 D"]:
    """Return the row of each sequence's last valid position."""
    return jnp.take_along_axis(x_BxLxD, jnp.maximum(length_B - 1, 0)[:, None, None], 1)


def unit(x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Return x at unit length over the last axis; 0 stays 0, with a gradient of 0."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


class RMSNorm(nnx.Module):
    """x / RMS(x) * scale over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467).

    This replaces nnx.RMSNorm for speed. nnx.RMSNorm multiplies the scale into 1 / RMS(x) first, so
    that the backward pass keeps another array of x's shape; on a CPU, a training step of SASRec
    then takes 5% more time, one of TTT4Rec 3%.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(dim))
        self.eps = eps

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return the normalised rows."""
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps) * self.scale[...]


def input_layer(config: ModelConfig, rngs: nnx.Rngs) -> TanhLayer | RMSNorm | None:
    """Return the layer that embedded clicks pass through first.

    norm: embeddings are drawn small (EMBEDDING_RANGE), while what a mixer returns is not, since it
    reads normalised inputs. Without the norm the clicks themselves hardly count in the sums of a
    block until the embeddings have grown.
    """
    if config.input_layer == "norm":
        return RMSNorm(config.dim)
    return TanhLayer(config.dim, rngs) if config.input_layer == "tanh" else None


class Attention(nnx.Module):
    """Multi-head softmax attention (Vaswani et al. 2017, arXiv:1706.03762) without biases.

    A position attends to the positions up to its own if causal, else to all valid ones.
    """

    def __init__(self, dim: int, num_heads: int, rngs: nnx.Rngs, causal: bool = True):
        self.num_heads = num_heads
        self.causal = causal
        self.w_qkv = normal(rngs, (dim, 3 * dim), dim**-0.5)
        self.w_out = normal(rngs, (dim, dim), dim**-0.5)

    def __call__(
        self,
        x_BxLxD: Float[Array, "B L D"],
        length_B: Int[Array, " B"],
        last_only: bool = False,
    ) -> Float[Array, "B L_or_1 D"]:
        """Return [B, L, D], or [B, 1, D] at the last valid position with last_only."""
        B, L, D = x_BxLxD.shape

        def heads(x):
            return x.reshape(*x.shape[:2], self.num_heads, -1)

        if last_only:
            q = heads(last_valid(x_BxLxD, length_B) @ self.w_qkv[:, :D])
            k, v = map(heads, jnp.split(x_BxLxD @ self.w_qkv[:, D:], 2, -1))
        else:
            q, k, v = map(heads, jnp.split(x_BxLxD @ self.w_qkv[...], 3, -1))
        # padding follows every valid position, so that the causal mask excludes it as well
        is_causal = self.causal and not last_only
        mask = None if is_causal else (jnp.arange(L) < length_B[:, None])[:, None, None]
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=is_causal)
        return mixed.reshape(B, -1, D) @ self.w_out[...]


class TwoTowerModel(nnx.Module):
    """The base of two-tower models: the table of item embeddings, the target tower, the score.

    By default TTT4Rec alone has a target tower, as in its paper. In public code of its authors'
    group (github.com/HelloZicky/DUET, LSC4Rec) SASRec and GRU4Rec have the same one, so a fair
    comparison gives it to all models or to none.

    A score is a product of a user vector and an item vector. For --score=cosine both have unit
    length, and user vectors are divided by the temperature. `more_rows` ids beyond the last item (a
    mask token) have rows in the table as well. embedding_range: of the table's initial values.
    """

    # see models/custom.py
    uses: tuple[str, ...] = ("score", "temperature", "target_tower", "user_tower")

    def __init__(
        self,
        config: ModelConfig,
        num_items: int,
        rngs: nnx.Rngs,
        more_rows: int = 0,
        embedding_range: float | jax.Array = EMBEDDING_RANGE,
    ):
        self.embedding = normal(rngs, (num_items + 1 + more_rows, config.dim), embedding_range)
        self.tower = (
            Mlp(config.dim, config.dim, jnp.tanh, rngs) if config.target_tower == "mlp" else None
        )
        self.user_tower = (
            Mlp(config.dim, config.dim, jnp.tanh, rngs) if config.user_tower == "mlp" else None
        )
        self.input_layer = input_layer(config, rngs)
        self.temperature = config.temperature if config.score == "cosine" else None
        self.reads_times = config.time
        self.num_items = num_items
        self.gaps = None if config.time == "none" else GapEmbeddings(config, rngs)

    def embed(self, clicks: Int[Array, "*clicks"]) -> Float[Array, "*clicks D"]:
        """Return the embeddings of clicks: of their items and, with --time, of their time gaps."""
        if self.gaps is None:
            return self.embedding[...][clicks]
        gaps, items = jnp.divmod(clicks, self.num_items + 1)
        return self.embedding[...][items] + self.gaps(gaps)

    def read(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return what the first layer reads of embedded clicks: x, or the input layer of x."""
        return x if self.input_layer is None else self.input_layer(x)

    def user_vectors(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows 1 D"]:
        """Return the user vectors of representations [..., D], with an axis for one interest."""
        x = (x if self.user_tower is None else self.user_tower(x))[..., None, :]
        return x if self.temperature is None else unit(x) / self.temperature

    def item_vectors(self, items: Int[Array, "*items"]) -> Float[Array, "*items D"]:
        """Return the vectors of items."""
        return self.vectors_of(self.embedding[...][items])

    def vectors_of(self, e: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return the item vectors of rows of the table."""
        e = e if self.tower is None else self.tower(e)
        return e if self.temperature is None else unit(e)
