"""Counts beyond what 32 bits hold, and the smallest and most degenerate data."""

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from helpers import make_dataset, make_recommender, serving_config

from data_prep import prepare
from data_prep.settings import DataConfig, UserError
from ttt4rec_jax.config import TrainConfig
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.metrics import Ranks, per_target, summarise
from ttt4rec_jax.models import itemknn
from ttt4rec_jax.models.interface import TrainingClicks
from ttt4rec_jax.models.popularity import EXACT, as_scores
from ttt4rec_jax.serving import top_k

MANY = 20_000_001  # items; above 2**24, float32 has no odd numbers


def test_ranks_in_a_catalogue_of_twenty_million_items_are_exact():
    ranks = Ranks(*(np.array([x]) for x in (MANY - 2, 1, MANY - 1)))
    values = {name: x.item() for name, x in per_target(ranks).items()}
    # the rank is MANY - 1 or MANY
    assert values["mrr"] == pytest.approx((1 / (MANY - 1) + 1 / MANY) / 2, rel=1e-7)
    assert values["auc"] == 0.5 / (MANY - 1) and values["hit@20"] == 0


def test_a_mean_over_two_million_users_is_exact():
    greater = np.zeros(MANY // 10, np.int64)
    greater[:3] = 99
    zeros = np.zeros_like(greater)
    metrics = summarise(Ranks(greater, zeros, zeros + 99))
    assert metrics["hit@10"] == 1 - 3 / len(greater)


def test_items_of_more_clicks_than_float32_counts_keep_their_order():
    counts = np.array([0, EXACT + 1, EXACT, 7, EXACT + 1, 2**40])
    scores = as_scores(counts)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(
        scores[:, None] < scores[None], counts[:, None] < counts[None]
    )  # float32 alone would make EXACT + 1 equal to EXACT
    assert as_scores(np.array([0, 3, EXACT])).tolist() == [0, 3, EXACT]


def test_pairs_of_more_users_than_float32_counts_keep_their_order(monkeypatch):
    found = np.array([0, 0, 2, 3]), np.array([1, 2, 1]), np.array([EXACT + 2, 1, EXACT + 3])
    monkeypatch.setattr(itemknn, "co_occurrences", lambda *_: found)
    model = itemknn.ItemKnn(TrainingClicks(*(np.zeros(1, int),) * 3), 2)
    first, one, last = model.counts[...].tolist()
    assert last > first > one > 0


def test_too_many_clicks_are_refused_before_they_are_sorted(monkeypatch):
    monkeypatch.setattr(prepare, "MOST_CLICKS", 2)
    kept = pl.LazyFrame({"user": [0, 1], "item": [1, 2], "time": [0, 0]})
    with pytest.raises(UserError, match="2 clicks are left, expected fewer than 2; use fewer"):
        prepare.in_sequence(kept, {})


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_seeds_of_31_bits_are_accepted(seed):
    assert TrainConfig(seed=seed).seed == DataConfig(data_seed=seed).data_seed == seed


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32, 2**64])
def test_other_seeds_are_refused_since_they_would_equal_smaller_ones(seed):
    for make in (lambda: TrainConfig(seed=seed), lambda: DataConfig(data_seed=seed)):
        with pytest.raises(UserError, match="expected at least 0 and at most 2147483647"):
            make()


@pytest.mark.parametrize("name", ["popularity", "itemknn", "sasrec"])
def test_a_catalogue_of_one_item_is_served_and_k_may_exceed_it(name):
    recommender = make_recommender(
        serving_config(name), make_dataset([[1, 1, 1, 1]] * 3, 1, num_negatives=0)
    )
    (best,) = recommender.recommend([[100]], k=1000, exclude_seen=False)
    assert best.ids == [100]
    (empty,) = recommender.recommend([[100]], k=1000)
    assert empty.ids == [] and len(empty.scores) == 0
    session = recommender.open_session([100] * 300)
    assert session.recommend(7, exclude_seen=False).ids == [100]


SAME = {"equal": 1.0, "infinite": np.inf, "minus infinity": -np.inf, "largest": 3e38}


@pytest.mark.parametrize("score", SAME)
def test_all_scores_the_same(score):
    """Targets tie with everything; blocked items are never recommended, whatever the scores."""
    V = 700
    tiles = ranking.item_tiles(V)
    blocked_V = np.zeros(V, bool)
    blocked_V[[0, 1, 5, 600]] = True
    for k in (3, 650):  # by groups, and by the whole catalogue
        _, items = top_k.top_k(
            lambda tile: jnp.full((1, len(tile)), SAME[score]),
            tiles,
            jnp.asarray(top_k.pack_mask(blocked_V))[None],
            k,
        )
        allowed = np.flatnonzero(~blocked_V) + 1
        assert items[0].tolist() == allowed[:k].tolist()
    scores = jnp.full((1, 512), SAME[score])
    greater, ties, nans = ranking.count_scores(scores, scores[:, 0], True)
    assert (greater.item(), ties.item(), nans.item()) == (0, 512, 0)
