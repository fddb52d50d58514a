"""The two splits against brute-force twins."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import split

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
        if before and before + between < len(user):
            test.append(start + before + between)
    assert as_lists(split.temporal(offsets, times, first, second)) == [train_ends, validation, test]


def test_new_users_have_the_targets_of_the_others_and_nothing_to_train_on():
    offsets = np.cumsum([0, *[2, 3, 5, 8] * 10])
    one = split.leave_one_out(offsets)
    parts = split.user_holdout(offsets, 0.2, 0)
    assert np.array_equal(parts.test, one.test)
    assert np.array_equal(parts.validation, one.validation)
    new = parts.train_ends == offsets[:-1]
    assert new.sum() == 6 and not new[::4].any(), "users without targets only train"
    assert np.array_equal(parts.train_ends[~new], one.train_ends[~new])
    assert not np.array_equal(split.user_holdout(offsets, 0.2, 1).train_ends, parts.train_ends)


def test_temporal_by_hand():
    # Cuts at 8 and 9 of 10 clicks. User 1 begins after the first cut: no targets, no training
    # click.
    offsets, times = flat([[0, 1, 2, 8], [8, 9], [3, 4, 5, 9]])
    assert as_lists(split.temporal(offsets, times, 0.6, 0.8)) == [[3, 4, 9], [3], [9]]
