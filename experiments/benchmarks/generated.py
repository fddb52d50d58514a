"""Clicks generated in memory, on a catalogue of any size."""

from typing import NamedTuple

import numpy as np

from ttt4rec_jax.data.dataset import Dataset, Targets


class Shape(NamedTuple):
    """The size of a data set, and how many clicks its users have.

    A user has `fewest` clicks and a log-normal number of others, whose median and sigma these are.
    """

    items: int
    users: int
    fewest: int
    median: float
    sigma: float


# Chosen so that the mean and the quantiles of clicks per user are near those of the real data.
SHAPES = {
    "beauty": Shape(12_101, 22_363, 5, 1.5, 1.45),
    "ml1m": Shape(3_416, 6_040, 18, 78.0, 1.13),
}


def generated_like(shape: Shape) -> Dataset:
    """Return data of a shape; the last click of every user is in the evaluation set."""
    rng = np.random.default_rng(1)
    more = rng.lognormal(np.log(shape.median), shape.sigma, shape.users)
    return generated(shape.items, shape.users, shape.users, 99, shape.fewest + more.astype(int))


def generated(
    num_items: int,
    num_users: int,
    num_targets: int,
    num_negatives: int,
    lengths: np.ndarray | None = None,
) -> Dataset:
    """Return users of 3 to 60 clicks on items drawn uniformly.

    lengths: the number of clicks of each user instead. The last clicks of the first num_targets
    users are the evaluation set. Negatives may be clicked items, which makes no difference to the
    cost.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 61, num_users) if lengths is None else lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(1, num_items + 1, offsets[-1]).astype(np.int32)
    negatives = rng.integers(1, num_items + 1, (num_targets, num_negatives)).astype(np.int32)
    targets = Targets(
        (offsets[1 : num_targets + 1] - 1).astype(np.int32),
        np.arange(num_targets, dtype=np.int32),
        negatives,
    )
    manifest = {"name": f"{num_items:,} items", "counts": {"items": num_items}}
    return Dataset(manifest, items, offsets, offsets[1:] - 2, targets, targets)
