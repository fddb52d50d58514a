"""The lookup arrays of users' clicks equal those made by loops over them."""

import itertools

import numpy as np
import pytest

from data_prep import index


@pytest.mark.parametrize("at_once", [1, 40, 10_000])
def test_index_is_that_of_loops_whatever_the_blocks(at_once, monkeypatch):
    monkeypatch.setattr(index, "CLICKS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    # with repeats; the last users have only one click
    counts = np.append(rng.integers(1, 15, 30), [1, 1])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    items = rng.integers(1, 21, offsets[-1]).astype(np.int32)
    train_ends = np.where(counts >= 3, offsets[1:] - 2, offsets[1:])
    got = index.click_index(items, offsets, train_ends, 20)
    is_first = []
    gaps = []
    gap_starts = [0]
    for first, last, end in zip(offsets[:-1], offsets[1:], train_ends, strict=True):
        clicks = items[first:last].tolist()
        is_first += [item not in clicks[:position] for position, item in enumerate(clicks)]
        gaps += [
            item - 1 - rank for rank, item in enumerate(sorted(set(items[first:end].tolist())))
        ]
        gap_starts.append(len(gaps))
    for name, expected in (("is_first", is_first), ("gaps", gaps), ("gap_starts", gap_starts)):
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
    assert [got[name].dtype for name in ("is_first", "gaps", "gap_starts")] == [
        bool,
        np.int32,
        np.int32,
    ]
    spans = index.blocks(offsets)
    assert spans[0][0] == 0
    assert spans[-1][1] == 32
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert (len(spans) > 5) == (at_once < 100)


def test_training_clicks_are_each_users_first_ones():
    offsets = np.array([0, 3, 4, 4, 8])
    train_ends = np.array([1, 4, 4, 6])
    expected = [True, False, False, True, True, True, False, False]
    assert index.is_training(offsets, train_ends).tolist() == expected
    # users from the second on, in positions of the whole
    assert index.is_training(offsets[1:], train_ends[1:]).tolist() == expected[3:]
