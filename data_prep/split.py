"""Split clicks into training clicks and validation and test targets.

Positions are flat: user 0's clicks come first, then user 1's, and so on.
"""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """The position after each user's last training click [users], and positions of targets [T]."""

    train_ends: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def leave_one_out(offsets: np.ndarray) -> Split:
    """Make each user's last click a test target and the one before it a validation target.

    Users with fewer than three clicks are used only for training. offsets: [users + 1].
    """
    ends = offsets[1:]
    evaluated = np.diff(offsets) >= 3
    last = ends[evaluated] - 1
    return Split(np.where(evaluated, ends - 2, ends), last - 1, last)


def user_holdout(offsets: np.ndarray, share: float, seed: int) -> Split:
    """Split as leave-one-out, but train on no click of some users, who are new to the model.

    share: of the users with targets, at least one; they are drawn by the seed. Their targets have
    the same places as those of the other users, and the clicks before them are their history.
    """
    parts = leave_one_out(offsets)
    evaluated = np.flatnonzero(np.diff(offsets) >= 3)
    count = max(1, round(share * len(evaluated))) if len(evaluated) else 0
    new = np.random.default_rng((seed, 3)).choice(evaluated, count, replace=False)
    train_ends = parts.train_ends.copy()
    train_ends[new] = offsets[new]
    return parts._replace(train_ends=train_ends)


def temporal(
    offsets: np.ndarray, times: np.ndarray, validation_time: float, test_time: float
) -> Split:
    """Split all clicks at two points in time, before which these fractions of them occur.

    Training clicks are those before the first cut. The validation target is a user's first click
    between the cuts, the test target the first one at the second cut or later. Clicks at the exact
    time of a cut belong to the part after it. Only users with a training click have targets; the
    item of a target may have no training click. Nothing after a cut is used before it, except that
    the k-core is computed from all clicks. offsets: [users + 1]; times: [E], ascending per user.
    """
    cuts = [_cut(times, share) for share in (validation_time, test_time)]
    first, second = (_first_at(offsets, times, cut) for cut in cuts)
    trained = first > offsets[:-1]
    return Split(first, first[trained & (first < second)], second[trained & (second < offsets[1:])])


def _cut(times: np.ndarray, share: float) -> int:
    """Return the time before which a fraction of all clicks occur; for 1, after the last click."""
    index = int(share * len(times))
    return int(np.partition(times, index)[index]) if index < len(times) else int(times.max()) + 1


def _first_at(offsets: np.ndarray, times: np.ndarray, cut: int) -> np.ndarray:
    """Return [users]: each user's first click at `cut` or later; the end if there is none."""
    before = np.concatenate([[0], np.cumsum(times < cut)])
    return offsets[:-1] + np.diff(before[offsets])
