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

LOWEST = np.finfo(np.float32).min
GROUP_SIZE = 16  # items that share a maximum


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


def grouped_top_k(score_NxBxC: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Return (scores, items) [B, k] of the largest scores; k is at most N * C.

    The k best items are in the k groups with the largest maxima (the first of equal maxima), since
    the maxima of these k groups precede every item of any other group. So only the maxima and k
    groups are sorted, not the whole catalogue.
    """
    N, B, C = score_NxBxC.shape
    if 2 * GROUP_SIZE * k > N * C:
        scores_Bxk, index_Bxk = jax.lax.top_k(score_NxBxC.swapaxes(0, 1).reshape(B, N * C), k)
        return scores_Bxk, index_Bxk + 1
    grouped = score_NxBxC.reshape(N, B, C // GROUP_SIZE, GROUP_SIZE)
    maxima_BxG = grouped.max(-1).swapaxes(0, 1).reshape(B, -1)
    # in the order of the catalogue, so that the first of items with equal scores comes first
    group_Bxk = jnp.sort(jax.lax.top_k(maxima_BxG, k)[1], 1)
    tile_Bxk, group_of_tile_Bxk = jnp.divmod(group_Bxk, C // GROUP_SIZE)
    score_BxkxG = grouped[tile_Bxk, jnp.arange(B)[:, None], group_of_tile_Bxk]
    scores_Bxk, index_Bxk = jax.lax.top_k(score_BxkxG.reshape(B, k * GROUP_SIZE), k)
    first_Bxk = jnp.take_along_axis(group_Bxk, index_Bxk // GROUP_SIZE, 1) * GROUP_SIZE
    return scores_Bxk, first_Bxk + index_Bxk % GROUP_SIZE + 1
