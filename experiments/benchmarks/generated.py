"""Clicks generated in memory, on a catalogue of any size."""

import numpy as np

from ttt4rec_jax.data.dataset import Dataset, Targets


def generated(num_items: int, num_users: int, num_targets: int, num_negatives: int) -> Dataset:
    """Return users of 3 to 60 clicks on items drawn uniformly.

    The last clicks of the first num_targets users are the evaluation set. Negatives may be clicked
    items, which makes no difference to the cost.
    """
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(3, 61, num_users))])
    items = rng.integers(1, num_items + 1, offsets[-1]).astype(np.int32)
    negatives = rng.integers(1, num_items + 1, (num_targets, num_negatives)).astype(np.int32)
    targets = Targets(
        (offsets[1 : num_targets + 1] - 1).astype(np.int32),
        np.arange(num_targets, dtype=np.int32),
        negatives,
    )
    manifest = {"name": f"{num_items:,} items", "counts": {"items": num_items}}
    return Dataset(manifest, items, offsets, offsets[1:] - 2, targets, targets)
