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
from ttt4rec_jax.evaluation.best import GROUP_SIZE, best_of_groups, grouped_top_k
from ttt4rec_jax.serving.load_export import MAX_BATCH

LOWEST = np.finfo(np.float32).min
MOST_SCORES = 2**21  # users x items that one product scores: 8 MB, and more would leave the caches


def pack_mask(blocked_V: np.ndarray) -> np.ndarray:
    """Return the bits [W] of a mask over the items, padded to whole tiles of blocked items."""
    padded = np.ones(-(-len(blocked_V) // ranking.TILE) * ranking.TILE, bool)  # np.pad is slow
    padded[: len(blocked_V)] = blocked_V
    return np.packbits(padded, bitorder="little")


def unpack_mask(packed: jax.Array, axis: int) -> jax.Array:
    """Return the mask of packed bits [..., W, ...], with an axis [8 W] in the place of `axis`."""
    shift = jnp.arange(8, dtype=jnp.uint8).reshape(8, *[1] * (packed.ndim - axis - 1))
    bits = (jnp.expand_dims(packed, axis + 1) >> shift) & 1
    return bits.reshape(*packed.shape[:axis], -1, *packed.shape[axis + 1 :]) > 0


def top_k_of_users(
    model: Any, user_BxKxD: jax.Array, item_NxCxD: jax.Array, blocked_BxW: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Return (scores, items) [B, k] by user vectors and the item vectors of ranking.item_tiles.

    model: the model that they come from. Up to MOST_SCORES scores come from one product.
    """
    N, C, D = item_NxCxD.shape
    B = user_BxKxD.shape[0]
    products = ranking.Products(model)
    at_once = B if isinstance(B, int) else MAX_BATCH  # an export's programs take any number
    if at_once * N * C > MOST_SCORES or 2 * GROUP_SIZE * k > N * C:
        return top_k(functools.partial(products.tile, user_BxKxD), item_NxCxD, blocked_BxW, k)
    # Users are the last axis, along which the product, the mask and the maxima are vectorised.
    score_VxB = jnp.maximum(products.items(user_BxKxD, item_NxCxD.reshape(-1, D)), LOWEST)
    score_VxB = jnp.where(unpack_mask(blocked_BxW.T, 0), -jnp.inf, score_VxB)
    score_GxSxB = score_VxB.reshape(-1, GROUP_SIZE, B)

    def take(group_Bxk):
        return score_GxSxB[group_Bxk, :, jnp.arange(B)[:, None]]

    return best_of_groups(score_GxSxB.max(1).T, take, k)


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
        return jnp.where(unpack_mask(blocked_BxW, 1), -jnp.inf, score_BxC)

    return grouped_top_k(jax.lax.map(score_tile, (tile_NxC, blocked_NxBxW)), k)
