"""ItemKNN: items by how many users clicked them together with the history's last item. A floor without training.

Item-to-item co-occurrence (Linden, Smith, York 2003, "Amazon.com Recommendations: Item-to-Item
Collaborative Filtering", with counts instead of cosines), from the last click alone. All pairs of a
user's clicks count, not only
consecutive ones.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.data.dataset import Dataset

LONGEST = 1000  # a user's last training items that make pairs: pairs grow with the square
PAIRS_AT_ONCE = 2**24  # in memory before they are merged


def co_occurrences(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts [V + 2], neighbours, counts): those of item i lie at starts[i]..starts[i + 1], ascending.

    A pair of unlike items counts once for each user whose training clicks hold both; held-out
    clicks would leak.
    """
    num_items = dataset.num_items
    pairs = np.zeros(0, np.int64)
    waiting = []
    size = 0
    counts = np.zeros(0, np.int64)

    def merged(pairs, counts, waiting):
        found, number = np.unique(np.concatenate(waiting), return_counts=True)
        keys, place = np.unique(np.concatenate([pairs, found]), return_inverse=True)
        return keys, np.bincount(place, np.concatenate([counts, number])).astype(np.int64)

    for start, end in zip(dataset.offsets[:-1], dataset.train_ends, strict=True):
        items = np.unique(dataset.items[max(start, end - LONGEST) : end]).astype(np.int64)
        both = (items[:, None] * (num_items + 1) + items)[~np.eye(len(items), dtype=bool)]
        waiting.append(both)
        size += len(both)
        if (
            size > PAIRS_AT_ONCE
        ):  # merged now and then, so that memory holds the distinct pairs and little more
            (pairs, counts) = merged(pairs, counts, waiting)
            waiting = []
            size = 0
    pairs, counts = merged(pairs, counts, waiting or [pairs[:0]])
    of, neighbour = np.divmod(pairs, num_items + 1)
    return np.searchsorted(of, np.arange(num_items + 2)), neighbour, counts


class ItemKnn(nnx.Module):
    """Scores a candidate by its co-occurrences with the last click; interface in models/__init__.py."""

    def __init__(self, dataset: Dataset):
        starts, neighbours, counts = co_occurrences(dataset)
        self.starts = nnx.Param(jnp.asarray(starts, jnp.int32))
        self.neighbours = nnx.Param(jnp.asarray(neighbours, jnp.int32))
        self.counts = nnx.Param(jnp.asarray(counts, jnp.float32))
        self.rounds = int(np.diff(starts).max(initial=0)).bit_length()

    def score(self, history_BxL, length_B, candidates, key=None):
        """Scores [B, C] of candidates [B, C] or [C]; a candidate is found among the last click's neighbours by bisection."""
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
        found = (low < stop) & (neighbours[jnp.minimum(low, len(neighbours) - 1)] == candidates)
        return jnp.where(found, counts[jnp.minimum(low, len(neighbours) - 1)], 0)
