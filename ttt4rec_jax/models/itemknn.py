"""ItemKNN: items by the number of users who clicked both them and the last item of the history.

An untrained baseline: item-to-item co-occurrence (Linden, Smith, York 2003, "Amazon.com
Recommendations: Item-to-Item Collaborative Filtering", with counts instead of cosines), from the
last click only. All pairs of a user's clicks count, not only consecutive ones.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.models.interface import Key, TrainingClicks
from ttt4rec_jax.models.popularity import as_scores

LONGEST = 1000  # last training clicks per user that form pairs, whose number grows with the square
PAIRS_AT_ONCE = 2**24  # pairs held in memory before they are merged


def co_occurrences(
    training: TrainingClicks, num_items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (starts [V + 2], neighbours, counts) of all items, neighbours in ascending order.

    Those of item i are at starts[i]..starts[i + 1]. A pair of distinct items counts once for each
    user whose training clicks contain both; held-out clicks do not count, since they would leak.
    """
    pairs = np.zeros(0, np.int64)
    counts = np.zeros(0, np.int64)
    waiting: list[np.ndarray] = []
    size = 0

    def merged(pairs, counts, waiting):
        new_pairs, new_counts = np.unique(np.concatenate(waiting), return_counts=True)
        keys, index = np.unique(np.concatenate([pairs, new_pairs]), return_inverse=True)
        return keys, np.bincount(index, np.concatenate([counts, new_counts])).astype(np.int64)

    for start, end in zip(training.offsets[:-1], training.train_ends, strict=True):
        items = np.unique(training.items[max(start, end - LONGEST) : end]).astype(np.int64)
        both = (items[:, None] * (num_items + 1) + items)[~np.eye(len(items), dtype=bool)]
        waiting.append(both)
        size += len(both)
        if size > PAIRS_AT_ONCE:  # so that memory holds little more than the distinct pairs
            pairs, counts = merged(pairs, counts, waiting)
            waiting = []
            size = 0
    pairs, counts = merged(pairs, counts, waiting or [pairs[:0]])
    item, neighbour = np.divmod(pairs, num_items + 1)
    return np.searchsorted(item, np.arange(num_items + 2)), neighbour, counts


class ItemKnn(nnx.Module):
    """A PairScorer: a candidate's score is its co-occurrences with the last click."""

    def __init__(self, training: TrainingClicks, num_items: int):
        starts, neighbours, counts = co_occurrences(training, num_items)
        self.starts = nnx.Param(jnp.asarray(starts, jnp.int32))
        self.neighbours = nnx.Param(jnp.asarray(neighbours, jnp.int32))
        self.counts = nnx.Param(jnp.asarray(1 + as_scores(counts - 1)))  # 0 for no pair
        self.rounds = int(np.diff(starts).max(initial=0)).bit_length()

    def score(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        candidates: Int[Array, "*B C"],
        key: Key = None,
    ) -> Float[Array, "B C"]:
        """Return scores [B, C] of candidates [B, C], or [C] for all histories.

        A candidate is looked up among the last click's neighbours by bisection.
        """
        last_B = jnp.take_along_axis(history_BxL, jnp.maximum(length_B - 1, 0)[:, None], 1)[:, 0]
        starts = self.starts[...]
        neighbours = self.neighbours[...]
        counts = self.counts[...]
        if not len(neighbours):
            return jnp.zeros((len(last_B), candidates.shape[-1]))
        candidates = jnp.broadcast_to(candidates, (len(last_B), candidates.shape[-1]))
        low = starts[last_B][:, None]
        stop = starts[last_B + 1][:, None]
        low = jnp.broadcast_to(low, candidates.shape)
        high = jnp.broadcast_to(stop, candidates.shape)
        for _ in range(self.rounds):
            middle = (low + high) // 2
            before = (low < high) & (neighbours[middle] < candidates)
            low = jnp.where(before, middle + 1, low)
            high = jnp.where(before, high, middle)
        index = jnp.minimum(low, len(neighbours) - 1)
        is_neighbour = (low < stop) & (neighbours[index] == candidates)
        return jnp.where(is_neighbour, counts[index], 0)
