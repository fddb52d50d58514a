"""The k best items by user vectors or by a model of pairs: pure functions, in evaluation's tiles.

The items that are excluded for a user are a bit mask (item 1 in the lowest bit of byte 0), so that
the shapes of a request depend neither on its filters nor on the number of seen items. Ties are
broken in favour of the item that comes first.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.evaluation.best import grouped_top_k

LOWEST = np.finfo(np.float32).min


def pack_mask(blocked_V: np.ndarray) -> np.ndarray:
    """Return the bits [W] of a mask over the items, padded to whole tiles of blocked items."""
    padded = np.pad(blocked_V, (0, -len(blocked_V) % ranking.TILE), constant_values=True)
    return np.packbits(padded, bitorder="little")


def unpack_mask(blocked_BxW: jax.Array) -> jax.Array:
    """Return the mask [B, 8 W] of packed bits."""
    bits_BxWx8 = (blocked_BxW[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits_BxWx8.reshape(*blocked_BxW.shape[:-1], -1) > 0


def top_k_of_users(
    model: Any, user_BxKxD: jax.Array, item_NxCxD: jax.Array, blocked_BxW: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Return (scores, items) [B, k] by user vectors and the item vectors of ranking.item_tiles.

    model: the model that they come from.
    """
    score = functools.partial(ranking.Products(model).tile, user_BxKxD)
    return top_k(score, item_NxCxD, blocked_BxW, k)


def top_k_of_histories(
    model: Any,
    history_BxL: jax.Array,
    length_B: jax.Array,
    blocked_BxW: jax.Array,
    num_items: int,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Return (scores, items) [B, k] by a model that scores pairs of a history and an item.

    Memory stays bounded: only a few histories and one tile of items are scored at a time.
    """
    score = functools.partial(ranking.Pairs(model).tile, (history_BxL, length_B))
    return top_k(score, ranking.item_tiles(num_items), blocked_BxW, k)


def top_k(
    score: Callable[[jax.Array], jax.Array], tile_NxC: jax.Array, blocked_BxW: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Return (scores, items) [B, k] of the best items; blocked ones come last and score -inf.

    `score` maps a tile [C, ...] to scores [B, C]. A score of -inf counts as the lowest finite one,
    so that every blocked item comes after every other.
    """
    blocked_NxBxW = blocked_BxW.reshape(blocked_BxW.shape[0], len(tile_NxC), -1).swapaxes(0, 1)

    def score_tile(tile_and_blocked):
        tile_C, blocked_BxW = tile_and_blocked
        score_BxC = jnp.maximum(score(tile_C), LOWEST)  # NaN stays NaN
        return jnp.where(unpack_mask(blocked_BxW), -jnp.inf, score_BxC)

    return grouped_top_k(jax.lax.map(score_tile, (tile_NxC, blocked_NxBxW)), k)
