"""Metrics of ranks against brute force over every way of breaking ties, and their properties."""

import itertools

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.settings import UserError
from ttt4rec_jax import metrics
from ttt4rec_jax.metrics import Ranks

KS = (1, 2, 5)


def ranks_of(*rows):
    return Ranks(*np.array(rows).T)


def brute_force(scores):
    """Every metric of candidate 0, averaged over all orders that sort the scores."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            rank = order.index(0) + 1
            values = {f"hit@{k}": float(rank <= k) for k in KS}
            values |= {f"recall@{k}": float(rank <= k) for k in KS}
            values |= {f"precision@{k}": (rank <= k) / k for k in KS}
            values |= {f"map@{k}": (rank <= k) / rank for k in KS}
            values |= {f"ndcg@{k}": (rank <= k) / np.log2(rank + 1) for k in KS}
            below = (len(scores) - rank) / (len(scores) - 1) if len(scores) > 1 else 0.5
            found.append(values | {"mrr": 1 / rank, "auc": below})
    return {name: np.mean([f[name] for f in found]) for name in found[0]}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7))
def test_equal_brute_force_over_all_orders(scores):
    greater = sum(s > scores[0] for s in scores)
    ties = sum(s == scores[0] for s in scores) - 1
    got = metrics.per_target(ranks_of((greater, ties, len(scores) - 1)), KS, metrics.AT_K)
    for name, expected in brute_force(scores).items():
        assert got[name][0] == pytest.approx(expected), name
    assert got["tie_rate"][0] == (ties > 0)


@given(st.integers(1, 500), st.sampled_from(metrics.CUTOFFS))
def test_a_constant_scorer_gets_the_chance_level(others, k):
    ranks = ranks_of((0, others, others))
    assert metrics.hit(ranks, k)[0] == pytest.approx(min(k / (others + 1), 1))
    assert metrics.auc(ranks)[0] == pytest.approx(0.5)


@given(st.integers(0, 200), st.integers(0, 50), st.integers(0, 200))
def test_a_better_rank_is_never_worse(greater, ties, others):
    others = greater + ties + others
    better = ranks_of((greater, ties, others))
    worse = ranks_of((greater + 1, ties, others + 1))
    for name, value in metrics.per_target(better).items():
        assert 0 <= value[0] <= 1
        if (
            name != "auc"
        ):  # another candidate was added, so that the shares are not of the same whole
            assert value[0] >= metrics.per_target(worse)[name][0]


def test_summary_is_the_mean_and_its_interval():
    ranks = ranks_of((0, 0, 99), (5, 0, 99), (30, 0, 99), (99, 0, 99))
    got = metrics.summarise(ranks)
    assert got["hit@10"] == 0.5
    assert got["hit@10_ci95"] == pytest.approx(1.96 * np.std([1, 1, 0, 0], ddof=1) / 2)
    assert got["ndcg@10"] == pytest.approx((1 + 1 / np.log2(7)) / 4)
    assert got["tie_rate"] == 0


def test_metrics_are_those_of_ir_measures():
    """Of rankings without ties, which the library breaks by name."""
    rng = np.random.default_rng(0)
    qrels = []
    run = []
    greater = []
    for user in range(50):
        scores = rng.permutation(30).tolist()
        target = int(rng.integers(30))
        qrels.append(ir_measures.Qrel(str(user), str(target), 1))
        run += [ir_measures.ScoredDoc(str(user), str(i), float(s)) for i, s in enumerate(scores)]
        greater.append(sum(s > scores[target] for s in scores))
    ranks = ranks_of(*((n, 0, 29) for n in greater))
    got = metrics.summarise(ranks, (1, 5, 10), metrics.AT_K)
    theirs = {"mrr": ir_measures.RR}
    for k in (1, 5, 10):
        theirs |= {
            f"ndcg@{k}": ir_measures.nDCG @ k,
            f"precision@{k}": ir_measures.P @ k,
            f"recall@{k}": ir_measures.R @ k,
            f"hit@{k}": ir_measures.Success @ k,
            f"map@{k}": ir_measures.AP @ k,
        }
    expected = ir_measures.calc_aggregate(theirs.values(), qrels, run)
    for name, measure in theirs.items():
        assert got[name] == pytest.approx(expected[measure], abs=1e-6), name


@pytest.mark.parametrize("text", ["", "0", "5,x", "1001", "5,,10", "-1"])
def test_a_wrong_cutoff_is_one_line(text):
    with pytest.raises(UserError, match="expected numbers separated by commas, as in 1,5,10"):
        metrics.cutoffs(text)


def test_cutoffs_are_ascending_and_decide_what_is_shown():
    assert metrics.cutoffs("20, 1,5,5") == (1, 5, 20)
    assert metrics.shown_metrics((5, 10, 20)) == (*metrics.AT_CUTOFFS, "mrr", "auc")
    assert metrics.shown_metrics((1,))[:4] == ("hit@1", "ndcg@1", "precision@1", "map@1")
    summary = metrics.summarise_test(ranks_of((0, 0, 99), (2, 0, 99)), (1,))
    assert {"hit@1", "hit@5", "map@20"} <= summary.keys()


def test_how_metrics_and_p_values_are_printed():
    assert list(map(metrics.label, ("hit@10", "ndcg@5", "mrr"))) == ["HR@10", "NDCG@5", "MRR"]
    assert metrics.p_text(0.01234) == "p = 0.0123" and metrics.p_text(9e-5) == "p < 0.0001"


def test_every_named_metric_exists():
    values = metrics.per_target(ranks_of((0, 0, 99)))
    named = (metrics.shown_metrics(), metrics.COMPARED_METRICS, metrics.HEADLINE_METRICS)
    assert set(itertools.chain(*named, metrics.PAPER_METRICS)) <= set(values)


def test_targets_without_other_candidates_take_no_part():
    ranks = Ranks(np.array([0, 0, 3]), np.array([0, 0, 0]), np.array([5, 0, 5]))
    values = metrics.per_target(ranks)
    assert values["hit@5"].tolist() == [1, 1]
    assert values["mrr"].tolist() == pytest.approx([1, 0.25])
    assert metrics.summarise(ranks)["mrr"] == pytest.approx(0.625)
    alone = Ranks(*(np.zeros(2, int) for _ in range(3)))
    assert metrics.per_target(alone)["hit@5"].tolist() == [1, 1]
