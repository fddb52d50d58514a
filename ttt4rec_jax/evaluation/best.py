"""The k largest scores, without sorting a whole catalogue: pure functions.

Of equal scores, the one that comes first in the catalogue comes first.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

GROUP_SIZE = 16  # items that share a maximum
TILES_AT_ONCE = 32


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

    def take(group_Bxk: jax.Array) -> jax.Array:
        tile_Bxk, group_of_tile_Bxk = jnp.divmod(group_Bxk, C // GROUP_SIZE)
        return grouped[tile_Bxk, jnp.arange(B)[:, None], group_of_tile_Bxk]

    return best_of_groups(grouped.max(-1).swapaxes(0, 1).reshape(B, -1), take, k)


def best_of_groups(
    maxima_BxG: jax.Array, take: Callable[[jax.Array], jax.Array], k: int
) -> tuple[jax.Array, jax.Array]:
    """Return (scores, items) [B, k] of the largest scores, by the maxima of groups.

    k is at most G. take: groups [B, k] -> the scores [B, k, GROUP_SIZE] of their items.
    """
    # in the order of the catalogue, so that the first of items with equal scores comes first
    group_Bxk = jnp.sort(jax.lax.top_k(maxima_BxG, k)[1], 1)
    score_BxkxS = take(group_Bxk)
    scores_Bxk, index_Bxk = jax.lax.top_k(
        score_BxkxS.reshape(group_Bxk.shape[0], k * GROUP_SIZE), k
    )
    first_Bxk = jnp.take_along_axis(group_Bxk, index_Bxk // GROUP_SIZE, 1) * GROUP_SIZE
    return scores_Bxk, first_Bxk + index_Bxk % GROUP_SIZE + 1


def scan_best(
    step: Callable[[Any, Any], Any],
    carry: Any,
    tiles: tuple[jax.Array, jax.Array],
    k: int,
    tile: int,
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """Scan tiles of a catalogue; return the last carry and the k best (scores, items) [B, k].

    Only the scores of TILES_AT_ONCE tiles are in memory.

    Args:
        step: (carry, (first item, items)) of a tile -> (carry, scores [B, C]).
        tiles: The first item [N] and the items [N, C, ...] of each tile, in order.
        tile: C.
    """
    first_N, item_NxC = tiles
    chunks = -(-len(first_N) // TILES_AT_ONCE)
    size = -(-len(first_N) // chunks)
    more = chunks * size - len(first_N)  # tiles beyond the catalogue, which fill the last chunk
    first = jnp.concatenate([first_N, first_N[-1] + tile * (1 + jnp.arange(more))])
    items = jnp.pad(item_NxC, ((0, more), *((0, 0),) * (item_NxC.ndim - 1)), mode="edge")
    chunked = first.reshape(chunks, size), items.reshape(chunks, size, *item_NxC.shape[1:])

    def chunk(carry: Any, chunk: Any) -> Any:
        carry, score_MxBxC = jax.lax.scan(step, carry, chunk)
        score_Bxk, index_Bxk = grouped_top_k(score_MxBxC, min(k, size * tile))
        return carry, (score_Bxk, index_Bxk + chunk[0][0] - 1)

    carry, (score_NxBxk, item_NxBxk) = jax.lax.scan(chunk, carry, chunked)
    score_BxC, item_BxC = (
        x.swapaxes(0, 1).reshape(x.shape[1], -1) for x in (score_NxBxk, item_NxBxk)
    )
    if score_BxC.shape[1] < k:
        padding = ((0, 0), (0, k - score_BxC.shape[1]))
        score_BxC = jnp.pad(score_BxC, padding, constant_values=-jnp.inf)
        item_BxC = jnp.pad(item_BxC, padding)
    score_Bxk, index_Bxk = jax.lax.top_k(score_BxC, k)
    return carry, (score_Bxk, jnp.take_along_axis(item_BxC, index_Bxk, 1))
