"""The paired test against tables, hand calculation, permutation and simulation."""

import math

import numpy as np
import pytest
from helpers import simulated_ranks

from ttt4rec_jax.evaluation import paired_test
from ttt4rec_jax.metrics import per_target

# Student's t


@pytest.mark.parametrize(
    ("df", "published"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (5, 2.57058),
        (10, 2.22814),
        (30, 2.04227),
        (120, 1.97993),
        (1e7, 1.95996),
    ],
)
def test_t_quantiles_are_the_published_ones(df, published):
    assert paired_test.t_quantile(df) == pytest.approx(published, rel=3e-6)
    assert paired_test.two_sided_p(-published, df) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("t", [1e-6, 0.3, 1.0, 2.5, 40.0, 1e6])
def test_p_in_closed_form(t):
    assert paired_test.two_sided_p(t, 1) == pytest.approx(2 * math.atan(1 / t) / math.pi, rel=1e-9)
    root = math.sqrt(2 + t * t)
    assert paired_test.two_sided_p(t, 2) == pytest.approx(2 / (root * (root + t)), rel=1e-9)
    assert paired_test.two_sided_p(t, 4e8) == pytest.approx(math.erfc(t / math.sqrt(2)), rel=1e-5)


def test_p_at_broken_degrees_of_freedom_is_the_integral_of_the_density():
    df = 3.7
    t = 1.9
    grid = np.linspace(0, 1.9, 100_001)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    inside = 2 * np.trapezoid(scale * (1 + grid**2 / df) ** (-(df + 1) / 2), grid)
    assert paired_test.two_sided_p(t, df) == pytest.approx(1 - inside, rel=1e-8)


def test_holm_by_hand():
    assert paired_test.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert paired_test.holm([0.4, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    assert paired_test.holm([0.02]) == [0.02]


# The difference of two systems


def test_two_seeds_three_users_by_hand():
    reference = np.array(
        [[0.0, 1, 2], [1, 2, 6]]
    )  # means over users 1 and 3, over seeds .5, 1.5, 4
    other = np.array([[4.0, 4, 4], [4, 4, 4]])
    got = paired_test.difference(reference, other, over_seeds=True)
    assert got.difference == pytest.approx(2)
    users = np.var([3.5, 2.5, 0], ddof=1) / 3
    # means differ by 2: variance 2, over 2 seeds 1. Residuals are (.5, .5, -1) and their negatives:
    # sum of squares 3, with 2 degrees of freedom 1.5, over 3 users and 2 seeds .25
    assert got.error_users**2 == pytest.approx(users)
    assert got.error_seeds**2 == pytest.approx(1 - 0.25)
    assert got.df == pytest.approx((users + 0.75) ** 2 / (users**2 / 2 + 1**2 / 1))
    assert got.high - got.low == pytest.approx(
        2 * paired_test.t_quantile(got.df) * math.sqrt(users + 0.75)
    )
    alone = paired_test.difference(reference, other, over_seeds=False)
    assert (alone.difference, alone.df, alone.error_seeds) == (got.difference, 2, 0)
    assert alone.error_users == got.error_users


def test_over_users_alone_is_the_paired_t_test_and_agrees_with_flipping_signs():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(1, 40))
    b = a + rng.normal(0.15, 1, (1, 40))
    d = (b - a)[0]
    got = paired_test.difference(a, b, over_seeds=False)
    assert (got.low + got.high) / 2 == pytest.approx(d.mean())
    assert got.high - d.mean() == pytest.approx(
        2.02269 * d.std(ddof=1) / math.sqrt(40), rel=1e-5
    )  # t of 39 degrees
    flipped = (rng.choice([-1, 1], (100_000, 40)) * d).mean(1)
    assert got.p == pytest.approx((abs(flipped) >= abs(d.mean())).mean(), abs=0.01)
    assert 0.01 < got.p < 0.5, "else the comparison says little"


def test_equal_systems_and_constant_differences():
    x = np.random.default_rng(0).random((2, 9)).round(2)
    same = paired_test.difference(x[:1], x[:1], over_seeds=False)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    both = paired_test.difference(x, x[::-1], over_seeds=True)
    assert both.difference == pytest.approx(0) and both.p > 0.99
    sure = paired_test.difference(np.zeros((1, 9)), np.ones((1, 9)), over_seeds=False)
    assert (sure.low, sure.high, sure.p) == (1, 1, 0)
    assert paired_test.difference(np.zeros((2, 9)), np.ones((2, 9)), over_seeds=True).p == 0


@pytest.mark.parametrize(
    ("seeds", "seed_effect", "user_effect", "noise"),
    [((3, 3), 0.0, 1, 1), ((3, 3), 0.1, 0.3, 1), ((2, 5), 0.3, 1, 0.3)],
)
def test_intervals_cover_the_true_difference(seeds, seed_effect, user_effect, noise):
    rng = np.random.default_rng(3)
    repetitions = 1000
    users = 150
    covered = 0
    for _ in range(repetitions):
        a, b = (
            rng.normal(0, seed_effect, (k, 1))
            + rng.normal(0, user_effect, users)
            + rng.normal(0, noise, (k, users))
            for k in seeds
        )
        got = paired_test.difference(a, b + 0.7, over_seeds=True)
        covered += got.low <= 0.7 <= got.high
        assert (got.p < 0.05) == (not got.low <= 0 <= got.high), "interval and p say the same"
    assert 0.935 < covered / repetitions < 0.99


def test_five_percent_of_null_differences_are_significant_but_not_by_users_alone():
    """Ranks of two equal systems of three seeds: seeds matter as much as users do."""
    rng = np.random.default_rng(4)
    repetitions = 500
    users = 200
    found = {True: 0, False: 0}
    for _ in range(repetitions):
        difficulty = rng.normal(0, 1.5, users)
        a, b = (
            np.stack(
                [
                    per_target(simulated_ranks(rng, users, 2, 0.2, difficulty))["ndcg@10"]
                    for _ in range(3)
                ]
            )
            for _ in range(2)
        )
        for over_seeds in found:
            found[over_seeds] += paired_test.difference(a, b, over_seeds).p < 0.05
    assert 0.02 < found[True] / repetitions < 0.08
    assert found[False] / repetitions > 0.15, (
        "the test would not tell otherwise that seeds are in it"
    )
