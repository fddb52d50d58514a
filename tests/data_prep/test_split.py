"""The splits against brute-force twins."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import split
from data_prep.errors import UserError

TIMES = st.lists(
    st.lists(st.integers(0, 20), min_size=1, max_size=8).map(sorted), min_size=1, max_size=12
)


def flat(users):
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])])
    return offsets, np.array([time for user in users for time in user], np.int64)


def as_lists(parts):
    return [array.tolist() for array in parts]


@given(TIMES)
def test_leave_one_out_is_the_brute_force_one(users):
    offsets, _ = flat(users)
    train_ends = []
    validation = []
    test = []
    for start, user in zip(offsets, users, strict=False):
        end = int(start) + len(user)
        if len(user) >= 3:
            train_ends.append(end - 2)
            validation.append(end - 2)
            test.append(end - 1)
        else:
            train_ends.append(end)
    assert as_lists(split.leave_one_out(offsets)) == [train_ends, validation, test]


@given(TIMES, st.floats(0.05, 0.9), st.floats(0.01, 1.0))
@settings(max_examples=200)
def test_temporal_is_the_brute_force_one(users, first, gap):
    second = min(first + gap, 1.0)
    offsets, times = flat(users)
    ordered = sorted(times.tolist())
    cuts = [
        ordered[int(share * len(ordered))] if int(share * len(ordered)) < len(ordered) else 99
        for share in (first, second)
    ]
    train_ends = []
    validation = []
    test = []
    for start, user in zip(offsets.tolist(), users, strict=False):
        before = sum(t < cuts[0] for t in user)
        between = sum(cuts[0] <= t < cuts[1] for t in user)
        train_ends.append(start + before)
        if before and between:
            validation.append(start + before)
        # the first click of the test part that has a history, whenever that was clicked
        later = [n for n, t in enumerate(user) if t >= cuts[1] and n > 0]
        if later:
            test.append(start + later[0])
    assert as_lists(split.temporal(offsets, times, first, second)) == [train_ends, validation, test]


def test_temporal_by_hand():
    # Cuts at 8 and 9. Users 1, 3 and 4 begin after the first cut: they have no training click and
    # no validation target, and a test target if there is a click before it. User 3's has none.
    offsets, times = flat([[0, 1, 2, 8], [8, 9], [3, 4, 5, 9], [9], [9, 9]])
    expected = [[3, 4, 9, 10, 11], [3], [5, 9, 12]]
    assert as_lists(split.at_times(offsets, times, 8, 9)) == expected
    assert split.is_new(offsets, np.array(expected[0]), np.array([1, 2, 4])).tolist() == [1, 0, 1]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=40),
    st.floats(0.05, 0.9),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=200)
def test_user_holdout_holds_out_whole_users(counts, share, seed):
    offsets = np.concatenate([[0], np.cumsum(counts)])
    evaluated = [user for user, count in enumerate(counts) if count >= 3]
    half = int(share * len(evaluated) / 2)
    if not half:
        with pytest.raises(UserError, match="less than one user"):
            split.user_holdout(offsets, share, seed)
        return
    found = split.user_holdout(offsets, share, seed)
    assert as_lists(found) == as_lists(split.user_holdout(offsets, share, seed))
    validation, test = (np.searchsorted(offsets, x, side="right") - 1 for x in found[1:])
    in_both = set(validation) & set(test)
    held_out = set(evaluated) - in_both
    assert len(validation) == len(test) == len(evaluated) - half
    assert len(held_out) == 2 * half
    assert set(validation) | set(test) == set(evaluated)
    for user, (start, end) in enumerate(itertools.pairwise(offsets)):
        if user in held_out:  # no click is for training; the last one is the target
            assert found.train_ends[user] == start
            assert (end - 1 in found.validation) != (end - 1 in found.test)
        else:
            assert found.train_ends[user] == end - 2 * (user in in_both)
        if user in in_both:
            assert end - 2 in found.validation
            assert end - 1 in found.test
    for positions in found[1:]:
        assert (np.diff(positions) > 0).all()


def test_every_user_is_as_likely_to_be_held_out():
    offsets = np.arange(0, 3 * 41, 3)
    times = np.zeros((2, 40), int)
    for seed in range(400):
        found = split.user_holdout(offsets, 0.5, seed)
        is_held_out = found.train_ends == offsets[:-1]
        for part, positions in enumerate((found.validation, found.test)):
            times[part] += is_held_out & np.isin(np.arange(40), positions // 3)
    assert times.sum() == 400 * 20
    # 100 expected of each, with a standard deviation of 8.7
    assert times.min() > 60
    assert times.max() < 140
