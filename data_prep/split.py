"""Which clicks are for training and which are targets. Positions are flat: user 0's clicks, then user 1's, ..."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """train_ends [users]: one past a user's last training click. validation, test [T]: positions of the targets."""

    train_ends: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def leave_one_out(offsets: np.ndarray) -> Split:
    """A user's last click is a test target, the one before a validation target, if at least one more is left to train on.

    Users with fewer than three clicks are wholly training. offsets: [users + 1].
    """
    ends = offsets[1:]
    evaluated = np.diff(offsets) >= 3
    last = ends[evaluated] - 1
    return Split(np.where(evaluated, ends - 2, ends), last - 1, last)


def temporal(
    offsets: np.ndarray, times: np.ndarray, validation_time: float, test_time: float
) -> Split:
    """Two cuts through all clicks, at the times before which lie about these shares of them.

    Training: clicks before the first cut. Validation target: a user's first click between the cuts.
    Test target: a user's first click at the second cut or later. Clicks that share the second of a
    cut lie all behind it. Only users with a training click have targets; a target's item may be new
    to training. Nothing after a cut is used before it, but that the k-core is one of all clicks.
    offsets: [users + 1]; times: [E],
    ascending within a
    user.
    """
    cuts = [_cut(times, share) for share in (validation_time, test_time)]
    first, second = (_first_at(offsets, times, cut) for cut in cuts)
    trained = first > offsets[:-1]
    return Split(first, first[trained & (first < second)], second[trained & (second < offsets[1:])])


def _cut(times: np.ndarray, share: float) -> int:
    """The time of the click at a share of all clicks; behind the last click for the share 1."""
    place = int(share * len(times))
    return int(np.partition(times, place)[place]) if place < len(times) else int(times.max()) + 1


def _first_at(offsets: np.ndarray, times: np.ndarray, cut: int) -> np.ndarray:
    """[users]: the position of a user's first click at `cut` or later; one past the last if there is none."""
    before = np.concatenate([[0], np.cumsum(times < cut)])
    return offsets[:-1] + np.diff(before[offsets])
