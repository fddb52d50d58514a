"""Split clicks into training clicks and validation and test targets.

Positions are flat: user 0's clicks come first, then user 1's, and so on.
"""

from typing import NamedTuple

import numpy as np

from data_prep.errors import UserError

HOLDOUT_STREAM = 2  # of random bits for a seed; those of the evaluation negatives are 0 and 1


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


def temporal(
    offsets: np.ndarray, times: np.ndarray, validation_time: float, test_time: float
) -> Split:
    """Split all clicks at two points in time, before which these fractions of them occur.

    See `at_times`. offsets: [users + 1]; times: [E], ascending per user.
    """
    cuts = [time_of_share(times, share) for share in (validation_time, test_time)]
    return at_times(offsets, times, *cuts)


def at_times(offsets: np.ndarray, times: np.ndarray, first_cut: int, second_cut: int) -> Split:
    """Split all clicks at two times; clicks at the exact time of a cut belong to the part after it.

    Training clicks are those before the first cut. The validation target is the first click between
    the cuts of a user with a training click. The test target is a user's first click at the second
    cut or later that has a click before it: a user without a training click has a target if there
    is a history by then. The item of a target may have no training click. Nothing after a cut is
    used before it, except that the k-core is computed from all clicks.
    """
    starts = offsets[:-1]
    first, second = (_first_at(offsets, times, cut) for cut in (first_cut, second_cut))
    test = np.maximum(second, starts + 1)
    return Split(first, first[(first > starts) & (first < second)], test[test < offsets[1:]])


def user_holdout(offsets: np.ndarray, share: float, seed: int) -> Split:
    """Hold out a share of the users whole, half of them for validation and half for the test.

    No click of theirs is for training. Their last click is the target, and the others are the
    history before it. All other users are split by leave-one-out. Users with fewer than three
    clicks are used only for training. offsets: [users + 1]. Raises UserError if no user is held
    out.
    """
    evaluated = np.flatnonzero(np.diff(offsets) >= 3)
    half = int(share * len(evaluated) / 2)
    if not half:
        raise UserError(
            f"--holdout_users={share}: half of this share of {len(evaluated):,} users with three "
            "clicks is less than one user; hold out more, or use more data"
        )
    bits = np.random.PCG64(np.random.SeedSequence((seed, HOLDOUT_STREAM)))
    drawn = evaluated[np.argsort(bits.random_raw(len(evaluated)), kind="stable")]
    train_ends, validation, test = leave_one_out(offsets)
    # by user, in the order of `evaluated`
    for_validation = np.isin(evaluated, drawn[:half])
    for_test = np.isin(evaluated, drawn[half : 2 * half])
    train_ends[drawn[: 2 * half]] = offsets[drawn[: 2 * half]]
    return Split(
        train_ends,
        np.where(for_validation, test, validation)[~for_test],
        test[~for_validation],
    )


def is_new(offsets: np.ndarray, train_ends: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Return whether each of users [T] has no training click, so that training never saw them."""
    return train_ends[users] == offsets[users]


def time_of_share(times: np.ndarray, share: float) -> int:
    """Return the time before which a fraction of all clicks occur; for 1, after the last click."""
    index = int(share * len(times))
    return int(np.partition(times, index)[index]) if index < len(times) else int(times.max()) + 1


def _first_at(offsets: np.ndarray, times: np.ndarray, cut: int) -> np.ndarray:
    """Return [users]: each user's first click at `cut` or later; the end if there is none."""
    before = np.concatenate([[0], np.cumsum(times < cut)])
    return offsets[:-1] + np.diff(before[offsets])
