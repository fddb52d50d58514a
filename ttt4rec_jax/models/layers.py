"""What models share: residual blocks, attention, RMSNorm, feed-forward network, target tower, dropout."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

EMBEDDING_RANGE = 0.02


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """A parameter drawn from N(0, std^2)."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape))


def hashed_bits(key, shape: tuple[int, ...]):
    """32 random bits an element: its index and the key's two words, mixed by a multiply-xorshift hash.

    Good enough to choose what to drop, at a twentieth of threefry's cost on a CPU; negatives and
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


def dropout(x, rate: float, key):
    """Zeroes a share `rate` of x and scales up the rest; the identity without a key (evaluation)."""
    if key is None or rate == 0:
        return x
    kept = hashed_bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x / (1 - rate), 0)


def last_valid(x_BxLxD, length_B):
    """The row of each sequence's last valid position [B, 1, D]."""
    return jnp.take_along_axis(x_BxLxD, jnp.maximum(length_B - 1, 0)[:, None, None], 1)


def unit(x):
    """x at unit length over the last axis; 0 stays 0, with a gradient of 0."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


class RMSNorm(nnx.Module):
    """x / RMS(x) * scale over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, dim: int, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(dim))
        self.eps = eps

    def __call__(self, x):
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps) * self.scale[...]


class Mlp(nnx.Module):
    """Two affine maps [D, hidden], [hidden, D] with an activation in between; Lecun-normal weights, no bias at first."""

    def __init__(self, dim: int, hidden: int, activation, rngs: nnx.Rngs):
        self.w1 = normal(rngs, (dim, hidden), dim**-0.5)
        self.b1 = nnx.Param(jnp.zeros(hidden))
        self.w2 = normal(rngs, (hidden, dim), hidden**-0.5)
        self.b2 = nnx.Param(jnp.zeros(dim))
        self.activation = activation

    def __call__(self, x):
        return self.activation(x @ self.w1[...] + self.b1[...]) @ self.w2[...] + self.b2[...]


class Attention(nnx.Module):
    """Multi-head softmax attention (Vaswani et al. 2017, arXiv:1706.03762), no biases.

    To the positions up to one's own if causal, else to all valid ones.
    """

    def __init__(self, dim: int, num_heads: int, rngs: nnx.Rngs, causal: bool = True):
        self.num_heads = num_heads
        self.causal = causal
        self.w_qkv = normal(rngs, (dim, 3 * dim), dim**-0.5)
        self.w_out = normal(rngs, (dim, dim), dim**-0.5)

    def __call__(self, x_BxLxD, length_B, last_only: bool = False):
        """[B, L, D], or [B, 1, D] at the last valid position with last_only."""
        B, L, D = x_BxLxD.shape

        def heads(x):
            return x.reshape(*x.shape[:2], self.num_heads, -1)

        if last_only:
            q = heads(last_valid(x_BxLxD, length_B) @ self.w_qkv[:, :D])
            k, v = map(heads, jnp.split(x_BxLxD @ self.w_qkv[:, D:], 2, -1))
            mask = (jnp.arange(L) < length_B[:, None])[:, None, None]
        else:
            q, k, v = map(heads, jnp.split(x_BxLxD @ self.w_qkv[...], 3, -1))
            # padding stands behind every valid position, so that causality hides it as well
            mask = (
                jnp.tri(L, dtype=bool)
                if self.causal
                else (jnp.arange(L) < length_B[:, None])[:, None, None]
            )
        score = jnp.einsum("BQHF,BKHF->BHQK", q, k) * (D // self.num_heads) ** -0.5
        weight = jax.nn.softmax(jnp.where(mask, score, -jnp.inf), -1)
        return jnp.einsum("BHQK,BKHF->BQHF", weight, v).reshape(B, -1, D) @ self.w_out[...]


class Block(nnx.Module):
    """x + mixer(norm(x)), then, with a feed-forward network, x + FFN(norm(x)). A mixer is a causal sequence layer."""

    def __init__(self, dim: int, mixer: nnx.Module, ffn: bool, dropout: float, rngs: nnx.Rngs):
        self.norm = RMSNorm(dim)
        self.mixer = mixer
        self.ffn_norm = RMSNorm(dim) if ffn else None
        self.ffn = Mlp(dim, 4 * dim, jax.nn.gelu, rngs) if ffn else None
        self.dropout = dropout

    def __call__(self, x_BxLxD, length_B, last_only: bool, key):
        """[B, L, D], or [B, 1, D] at the last valid position with last_only."""
        keys = [None, None] if key is None else jax.random.split(key)
        added = self.mixer(self.norm(x_BxLxD), length_B, last_only)
        if last_only:
            x_BxLxD = last_valid(x_BxLxD, length_B)
        x_BxLxD = x_BxLxD + dropout(added, self.dropout, keys[0])
        if self.ffn is not None:
            x_BxLxD = x_BxLxD + dropout(self.ffn(self.ffn_norm(x_BxLxD)), self.dropout, keys[1])
        return x_BxLxD

    def advance(self, x_LxD, length, state, last_only: bool):
        """Goes on from a state of the mixer with clicks of one sequence, without dropout: (output, state).

        The output is [L, D], or [1, D] at the last valid position with last_only.
        """
        normed_LxD = self.norm(x_LxD)
        if len(x_LxD) == 1:  # a sequence would compute a whole mini-batch for it
            added_D, state = self.mixer.step(normed_LxD[0], state)
            added_LxD = added_D[None]
        else:
            added_LxD, state = self.mixer.sequence(normed_LxD, length, state, last_only)
        if last_only:
            x_LxD = x_LxD[jnp.maximum(length - 1, 0)][None]
        x_LxD = x_LxD + added_LxD
        return (x_LxD if self.ffn is None else x_LxD + self.ffn(self.ffn_norm(x_LxD))), state


class Separable(nnx.Module):
    """What models with a separable score share: the table of item embeddings, the tower, the kind of score.

    A score is a product of a user vector and an item vector. For --score=cosine both have unit
    length, and user vectors are divided by the temperature. `more_rows` ids beyond the last item (a
    mask token) have rows in the
    table as well.
    """

    def __init__(self, config, num_items: int, rngs: nnx.Rngs, more_rows: int = 0):
        self.embedding = normal(rngs, (num_items + 1 + more_rows, config.dim), EMBEDDING_RANGE)
        self.tower = (
            Mlp(config.dim, config.dim, jnp.tanh, rngs) if config.target_tower == "mlp" else None
        )
        self.temperature = config.temperature if config.score == "cosine" else None

    def user_vectors(self, x):
        """What `encode` gives, from the representations [..., D] of one interest: [..., 1, D]."""
        x = x[..., None, :]
        return x if self.temperature is None else unit(x) / self.temperature

    def item_vectors(self, items):
        """Vectors of the given items [..., D]."""
        return self.vectors_of(self.embedding[...][items])

    def vectors_of(self, e):
        """Item vectors [..., D] of rows of the table."""
        e = e if self.tower is None else self.tower(e)
        return e if self.temperature is None else unit(e)


class BlockRecommender(Separable):
    """Item embeddings (and position embeddings, if asked for) -> blocks -> RMSNorm."""

    def __init__(
        self,
        config,
        num_items: int,
        blocks: list[Block],
        rngs: nnx.Rngs,
        more_rows: int = 0,
        more_places: int = 0,
    ):
        super().__init__(config, num_items, rngs, more_rows)
        places = (config.max_len + more_places, config.dim)
        self.positions = (
            normal(rngs, places, EMBEDDING_RANGE) if config.positions == "learned" else None
        )
        self.blocks = nnx.List(blocks)
        self.norm = RMSNorm(config.dim)
        self.dropout = config.dropout

    def encode(self, history_BxL, length_B, every: bool = False, key=None):
        """User vectors: [B, 1, D] at the last click, or [B, L, 1, D] at every one."""
        x = self.represent(history_BxL, length_B, every, key)
        return self.user_vectors(x if every else x[:, 0])

    def represent(self, history_BxL, length_B, every: bool, key):
        """The last block's output, normed: [B, L, D], or [B, 1, D] at the last valid position unless `every`."""
        keys = (
            [None] * (len(self.blocks) + 1)
            if key is None
            else jax.random.split(key, len(self.blocks) + 1)
        )
        x = self.embedding[...][history_BxL]
        if self.positions is not None:
            x = x + self.positions[: x.shape[1]]
        x = dropout(x, self.dropout, keys[-1])
        for depth, block in enumerate(self.blocks):
            x = block(
                x, length_B, last_only=not every and depth == len(self.blocks) - 1, key=keys[depth]
            )
        return self.norm(x)
