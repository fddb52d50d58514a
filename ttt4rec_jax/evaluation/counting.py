"""Count the scores above a target's and equal to it: pure JAX functions."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

NEGATIVES_AT_ONCE = 32  # of each user; more would not fit into the cache

Counts: TypeAlias = tuple[jax.Array, ...]  # [B] each


def count_scores(score_BxC: jax.Array, target_B: jax.Array, counted: jax.Array | bool) -> Counts:
    """Return how many of up to 512 scores are (above, equal to, not comparable with) the target's.

    counted: which scores to count, broadcast to [B, C]. Each count is [B]. One pass over the scores
    is enough, since the three counts are packed into the bits of one sum.
    """
    target_Bx1 = target_B[:, None]
    not_greater = jnp.where(
        score_BxC == target_Bx1, 1 << 10, jnp.where(score_BxC < target_Bx1, 0, 1 << 20)
    )
    kind_BxC = jnp.where(score_BxC > target_Bx1, 1, not_greater)
    total_B = jnp.where(counted, kind_BxC, 0).sum(1)
    return total_B & 1023, (total_B >> 10) & 1023, total_B >> 20


def rank_sampled(
    score: Callable[[jax.Array], jax.Array], target_B: jax.Array, negatives_BxC: jax.Array
) -> Counts:
    """Return (greater, ties, NaNs) [B] of the target among the negatives; item 0 does not count.

    score: candidates [B, C] -> scores [B, C].
    """
    B, C = negatives_BxC.shape
    pieces = -(-C // NEGATIVES_AT_ONCE)
    width = -(-C // pieces)
    padded_PxBxC = (
        jnp.pad(negatives_BxC, ((0, 0), (0, pieces * width - C)))
        .reshape(B, pieces, width)
        .swapaxes(0, 1)
    )

    def piece(negatives_BxC):
        score_BxC = score(jnp.concatenate([target_B[:, None], negatives_BxC], 1))
        return count_scores(score_BxC[:, 1:], score_BxC[:, 0], negatives_BxC > 0)

    return jax.tree.map(lambda x: x.sum(0), jax.lax.map(piece, padded_PxBxC))
