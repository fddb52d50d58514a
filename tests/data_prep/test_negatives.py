"""Evaluation negatives: distinct, never clicked, of the right distribution, the same everywhere."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import negatives
from data_prep.settings import UserError


def history_of(sequences, num_items):
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])])
    items = np.concatenate([np.array(s, np.int64) for s in sequences])
    return negatives.clicked(items, offsets, num_items), items


@st.composite
def problems(draw):
    """Draw sequences over a small catalogue, and how many negatives every user has room for."""
    num_items = draw(st.integers(2, 40))
    sequence = st.lists(st.integers(1, num_items), min_size=1, max_size=num_items + 5).filter(
        lambda s: len(set(s)) < num_items
    )
    sequences = draw(st.lists(sequence, min_size=1, max_size=8))
    return num_items, sequences, num_items - max(len(set(s)) for s in sequences)


@given(problems(), st.data())
@settings(max_examples=150)
def test_negatives_are_distinct_items_that_the_user_never_clicks(problem, data):
    num_items, sequences, most = problem
    count = data.draw(st.integers(1, most))
    users = np.array(sorted(data.draw(st.sets(st.integers(0, len(sequences) - 1), min_size=1))))
    history, items = history_of(sequences, num_items)
    skewed = np.concatenate([np.arange(1, num_items + 1), np.repeat(items, 50)])
    for pool in (np.arange(1, num_items + 1), skewed):
        drawn = negatives.draw(users, history, pool, count, (0, 0))
        assert drawn.shape == (len(users), count)
        for user, row in zip(users, drawn.tolist(), strict=True):
            assert len(set(row)) == count
            assert set(row) <= set(range(1, num_items + 1)) - set(sequences[user])


def test_rows_that_are_drawn_apart_change_nothing_for_the_others():
    rng = np.random.default_rng(0)
    sequences = [rng.choice(np.arange(1, 31), 22, replace=False).tolist() for _ in range(60)]
    history, _ = history_of(sequences, 30)
    apart = rng.random(60) < 0.4
    users = np.arange(60)
    pool = np.arange(1, 31)  # 8 of 30 items are left, so that many rows need further rounds
    drawn = negatives.draw(users, history, pool, 7, (3, 1), apart)
    alone = negatives.draw(users[~apart], history, pool, 7, (3, 1))
    assert np.array_equal(drawn[~apart], alone)
    for user, row in enumerate(drawn.tolist()):
        assert len(set(row) - {0}) == 7
        assert not set(row) & set(sequences[user])
    # not the random numbers of the others again
    first = negatives.draw(users[apart], history, pool, 7, (3, 1))
    assert not np.array_equal(drawn[apart], first)


def chi_square(observed, expected):
    return ((observed - expected) ** 2 / expected).sum()


@pytest.mark.parametrize(
    ("count", "rounds"), [(3, negatives.ROUNDS), (24, negatives.ROUNDS), (24, (1,))]
)
def test_uniform_negatives_are_uniform(count, rounds, monkeypatch):
    # after one round alone, many rows of 24 end in the exact draw
    monkeypatch.setattr(negatives, "ROUNDS", rounds)
    users = 20_000
    free = 26
    history, _ = history_of([[1, 2, 3, 4]] * users, free + 4)
    drawn = negatives.draw(np.arange(users), history, np.arange(1, free + 5), count, (1, 0))
    observed = np.bincount(drawn.ravel(), minlength=free + 5)[5:]
    # 25 degrees of freedom: exceeded by chance less than once in 10^4
    assert chi_square(observed, users * count / free) < 60
    firsts = np.bincount(drawn[:, 0], minlength=free + 5)[5:]
    assert chi_square(firsts, users / free) < 60


@pytest.mark.parametrize(
    ("pool", "rounds"),
    [
        ([2, 2, 2, 2, 2, 2, 3, 3, 3, 4], negatives.ROUNDS),
        ([2] * 60_000 + [3] * 3 + [4], (1,)),  # nearly every row ends in the exact draw
    ],
)
def test_popular_negatives_come_one_after_another_in_proportion_to_clicks(
    pool, rounds, monkeypatch
):
    """Two of three without replacement: P(a, b) = w_a / W * w_b / (W - w_a)."""
    monkeypatch.setattr(negatives, "ROUNDS", rounds)
    users = 20_000
    history, _ = history_of([[1]] * users, 4)
    drawn = negatives.draw(np.arange(users), history, np.array(pool), 2, (2, 0))
    weights = np.bincount(pool, minlength=5)
    total = weights.sum()
    for first, second in ((2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (4, 3)):
        expected = users * weights[first] / total * weights[second] / (total - weights[first])
        observed = ((drawn[:, 0] == first) & (drawn[:, 1] == second)).sum()
        assert abs(observed - expected) < 5 * np.sqrt(expected) + 1, (first, second)


def test_popular_negatives_are_only_items_that_are_trained_on():
    history, _ = history_of([[1], [2]], 6)
    drawn = negatives.draw(np.array([0, 1]), history, np.array([1, 2, 3, 3, 4]), 3, (0, 0))
    assert [sorted(row) for row in drawn.tolist()] == [[2, 3, 4], [1, 3, 4]]
    with pytest.raises(
        UserError, match="of 4 items that may be sampled, no user leaves more than 3"
    ):
        negatives.draw(np.array([0, 1]), history, np.array([1, 2, 3, 3, 4]), 4, (0, 0))


def test_a_user_who_leaves_too_few_items_gets_none_unless_all_are_such_users():
    history, _ = history_of([[1, 2], [1, 2, 3, 3]], 5)
    drawn = negatives.draw(np.array([0, 1]), history, np.arange(1, 6), 3, (0, 0))
    assert [sorted(row) for row in drawn.tolist()] == [[3, 4, 5], [0, 0, 0]]
    alone = negatives.draw(np.array([0]), history, np.arange(1, 6), 3, (0, 0))
    assert (alone == drawn[:1]).all()
    message = r"--eval_negatives=4.*no user leaves more than 3; set it to at most 3"
    with pytest.raises(UserError, match=message):
        negatives.draw(np.array([0, 1]), history, np.arange(1, 6), 4, (0, 0))


def test_clicks_on_items_that_are_not_drawn_from_take_nothing_away():
    # Given a pool of items 1 to 4, and users of whom the first two click items beyond it too
    history, _ = history_of([[5, 6, 7, 8, 1], [5, 6, 7, 8, 1, 2], [1]], 8)
    users = np.arange(3)
    pool = np.array([1, 2, 3, 4])
    assert {3, 4} == set(negatives.draw(users, history, pool, 2, (0,))[1].tolist())
    assert (negatives.draw(users, history, pool, 3, (0,)) > 0).all(1).tolist() == [
        True,
        False,
        True,
    ]


def test_seeds_give_different_sets_and_one_seed_the_same_on_every_machine():
    history, _ = history_of([[1, 2, 3]] * 5000, 500)
    pool = np.repeat(np.arange(1, 501), np.arange(1, 501))
    sets = [
        negatives.draw(np.arange(5000), history, pool, 99, seed)
        for seed in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert (sets[0] == sets[1]).all()
    assert (sets[0] != sets[2]).mean() > 0.9
    assert (sets[0] != sets[3]).mean() > 0.9
    # Integers from raw PCG64 bits: if this changes, evaluation sets of the same seed do, and
    # results no longer compare.
    digest = hashlib.sha256(sets[0].astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "081eb7e5e20384fc"
