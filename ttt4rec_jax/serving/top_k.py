"""The k best items of histories or of user vectors: pure functions, scored in evaluation's own tiles.

What may not be recommended to a user comes as one bit an item (byte 0's lowest bit is item 1), so
that a request's shape depends neither on its filters nor on how much was seen. Ties go to the item
that comes first.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.evaluation import ranking

GROUP = 16  # items that share a maximum


def pad_up(n: int, least: int = 1) -> int:
    """The power of two that n is padded to: few shapes, few compilations."""
    return max(least, 1 << (n - 1).bit_length())


def fill(x, rows: int) -> np.ndarray:
    """x with more rows behind, which repeat the first."""
    return np.concatenate([x, np.repeat(x[:1], rows - len(x), 0)])


def padded(histories: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(histories at the left of [B, length], zeros behind; their lengths [B])."""
    lengths = np.array([len(items) for items in histories], np.int32)
    history_BxL = np.zeros((len(histories), length), np.int32)
    history_BxL[np.arange(length) < lengths[:, None]] = np.concatenate(
        [*histories, np.zeros(0, np.int32)]
    )
    return history_BxL, lengths


def in_tiles(blocked_V: np.ndarray) -> np.ndarray:
    """Bits [W], for whole tiles, of what is blocked: places beyond the last item are too."""
    whole = np.pad(blocked_V, (0, -len(blocked_V) % ranking.TILE), constant_values=True)
    return np.packbits(whole, bitorder="little")


def mark(bits_BxW: np.ndarray, items: Sequence[np.ndarray]) -> None:
    """Sets the bits of each row's items, in place."""
    row = np.repeat(np.arange(len(items)), [*map(len, items)])
    place = np.concatenate([*items, np.zeros(0, np.int32)]) - 1
    np.bitwise_or.at(bits_BxW, (row, place >> 3), np.uint8(1) << (place & 7).astype(np.uint8))


def unpack(blocked_BxW):
    """[B, 8 W] of bits."""
    return ((blocked_BxW[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1).reshape(
        *blocked_BxW.shape[:-1], -1
    ) > 0


def of_users(user_BxKxD, item_NxCxD, blocked_BxW, k: int):
    """(scores, items) [B, k] by user vectors. item_NxCxD: the vectors of ranking.item_tiles."""
    return top(functools.partial(ranking.Products.tile, user_BxKxD), item_NxCxD, blocked_BxW, k)


def of_histories(model, history_BxL, length_B, blocked_BxW, num_items: int, k: int):
    """(scores, items) [B, k] by a model that scores pairs; a few histories and a tile of items are in memory at a time."""
    item_NxC = ranking.item_tiles(num_items)
    return top(
        functools.partial(ranking.Pairs(model).tile, (history_BxL, length_B)),
        item_NxC,
        blocked_BxW,
        k,
    )


def top(score, tile_NxC, blocked_BxW, k: int):
    """(scores, items) [B, k] of the best; blocked ones stand last, at -inf. score: a tile -> scores [B, C]."""
    tiles = len(tile_NxC)
    blocked_NxBxW = blocked_BxW.reshape(blocked_BxW.shape[0], tiles, -1).swapaxes(0, 1)

    def tile(tile_and_blocked):
        tile_C, blocked_BxW = tile_and_blocked
        return jnp.where(unpack(blocked_BxW), -jnp.inf, score(tile_C))

    return best(jax.lax.map(tile, (tile_NxC, blocked_NxBxW)), k)


def best(score_NxBxC, k: int):
    """(scores, items) [B, k] of the greatest scores, k at most N C.

    The k best items lie in the k groups of greatest maxima (of equal maxima, the first): an item
    elsewhere has k items before it, one of each. So only maxima and k groups are sorted, not the
    catalogue.
    """
    N, B, C = score_NxBxC.shape
    if 2 * GROUP * k > N * C:
        scores, place_Bxk = jax.lax.top_k(score_NxBxC.swapaxes(0, 1).reshape(B, N * C), k)
        return scores, place_Bxk + 1
    grouped = score_NxBxC.reshape(N, B, C // GROUP, GROUP)
    maxima_BxG = grouped.max(-1).swapaxes(0, 1).reshape(B, -1)
    group_Bxk = jnp.sort(
        jax.lax.top_k(maxima_BxG, k)[1], 1
    )  # sorted, so that of equal scores the first item is found first
    tile_Bxk, group_of_tile_Bxk = jnp.divmod(group_Bxk, C // GROUP)
    score_BxkxG = grouped[tile_Bxk, jnp.arange(B)[:, None], group_of_tile_Bxk]
    scores, place_Bxk = jax.lax.top_k(score_BxkxG.reshape(B, k * GROUP), k)
    return scores, jnp.take_along_axis(
        group_Bxk, place_Bxk // GROUP, 1
    ) * GROUP + place_Bxk % GROUP + 1
