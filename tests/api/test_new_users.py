"""Users whom training never sees: nothing of theirs is learned; their metrics are given apart."""

import jax
import numpy as np
import polars as pl
import pytest
from own_models import TINY

import ttt4rec_jax as t4r
from ttt4rec_jax.config import Config
from ttt4rec_jax.data.examples import training_examples
from ttt4rec_jax.evaluation.scorer import rank_by_scorer
from ttt4rec_jax.metrics import Ranks, summarise
from ttt4rec_jax.models import TrainingClicks
from ttt4rec_jax.models.itemknn import co_occurrences
from ttt4rec_jax.pipeline.heldout import HeldOut
from ttt4rec_jax.pipeline.result import table

USERS = 240
ITEMS = 40
FILTERS = {"user_core": 1, "item_core": 1, "eval_negatives": 19}
SPLITS = {
    "user_holdout": {"split": "user_holdout", "holdout_users": 0.3, "negatives": "popularity"},
    "temporal": {"split": "temporal", "validation_time": 0.5, "test_time": 0.7},
}


def clicks_of(replaced=()):
    """Random clicks of users who come one after the other; other items for the replaced users."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        count = rng.integers(1, 9)
        items = rng.choice(ITEMS, count, replace=False)
        times = 40 * user + np.sort(rng.integers(0, 4000, count))
        shift = 17 if user in replaced else 0
        rows += [(user, int(i + shift) % ITEMS, int(t)) for i, t in zip(items, times, strict=True)]
    return pl.DataFrame(rows, ["user", "item", "timestamp"], orient="row")


def by_user(data, ranks):
    clicks = data.items["clicks"].to_numpy()
    return HeldOut(data.dataset, clicks).entries(ranks, None, (5, 10, 20)).get("test_by_user")


def new_users(dataset):
    return np.flatnonzero(dataset.train_ends == dataset.offsets[:-1])


@pytest.mark.parametrize("split", SPLITS)
def test_chance_remains_chance(split):
    """A scorer that knows nothing is at chance in every part."""
    data = t4r.prepare(clicks_of(), **FILTERS, **SPLITS[split])
    dataset = data.dataset
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(30):
        ranks = rank_by_scorer(lambda h, c: rng.random(c.shape), dataset, "test", 5, 64)
        drawn.append(by_user(data, {"sampled": ranks["sampled"]}))
    targets = {name: part["targets"] for name, part in drawn[0].items()}
    assert min(targets.values()) > 20
    assert sum(targets.values()) == len(dataset.test.positions)
    assert targets["new"] == len(set(new_users(dataset)) & set(dataset.test.users.tolist()))
    for name, count in targets.items():
        mean = np.mean([parts[name]["sampled"]["hit@5"] for parts in drawn])
        assert abs(mean - 0.25) < 4 * np.sqrt(0.25 * 0.75 / (30 * count))


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_is_learned_from_new_users(split):
    """Other clicks of theirs change nothing that training reads or counts."""
    options = FILTERS | SPLITS[split]
    before = t4r.prepare(clicks_of(), **options)
    new = new_users(before.dataset)
    after = t4r.prepare(clicks_of(replaced=set(new.tolist())), **options)
    assert np.array_equal(new_users(after.dataset), new)
    first = before.dataset
    second = after.dataset
    of_new = np.isin(np.repeat(np.arange(USERS), np.diff(first.offsets)), new)
    assert (first.items != second.items).sum() == of_new.sum() > 100
    assert before.items.equals(after.items)  # ids, and the training clicks of each
    for name in ("gaps", "gap_starts"):
        assert np.array_equal(first.index[name], second.index[name])
    knn = [co_occurrences(TrainingClicks.from_dataset(x), ITEMS) for x in (first, second)]
    assert all(map(np.array_equal, *knn))
    examples, _ = training_examples(first, Config())
    assert not set(np.asarray(examples.users).tolist()) & set(new.tolist())


def test_a_run_on_held_out_users():
    """Their clicks change nothing in any epoch, and the result tells them apart."""
    options = FILTERS | SPLITS["user_holdout"]
    before = t4r.prepare(clicks_of(), **options)
    new = new_users(before.dataset)
    after = t4r.prepare(clicks_of(replaced=set(new.tolist())), **options)
    params = []

    def keep(line, trained):
        params.append(jax.device_get(trained))

    runs = [t4r.train(data, "sasrec", **TINY, on_epoch=keep) for data in (before, after)]
    for epoch in range(2):
        assert jax.tree.all(jax.tree.map(np.array_equal, params[epoch], params[epoch + 2]))
    result = runs[0].result
    parts = result["test_by_user"]
    count = {name: part["targets"] for name, part in parts.items()}
    for protocol, metrics in result["test"].items():
        mean = sum(count[name] * parts[name][protocol]["mrr"] for name in parts)
        assert mean / sum(count.values()) == pytest.approx(metrics["mrr"])
    assert result["dataset"]["test_new_users"] == count["new"]
    assert f"NDCG@10 of the {count['new']} new users (users without a training click)" in table(
        result
    )
    assert "have a test target" in before.describe()


def test_without_new_users_nothing_is_said():
    data = t4r.prepare(clicks_of(), **FILTERS)
    ranks = Ranks(*np.zeros((3, len(data.dataset.test.users)), int))
    assert by_user(data, {"full": ranks}) is None


def test_metrics_by_user_are_those_of_the_ranks():
    data = t4r.prepare(clicks_of(), **FILTERS, **SPLITS["user_holdout"])
    dataset = data.dataset
    rng = np.random.default_rng(2)
    ranks = Ranks(*rng.integers(0, 9, (3, len(dataset.test.users))))
    new = np.isin(dataset.test.users, new_users(dataset))
    found = by_user(data, {"full": ranks})
    for name, chosen in {"warm": ~new, "new": new}.items():
        expected = summarise(Ranks(*(counts[chosen] for counts in ranks)))
        assert found[name] == {"targets": chosen.sum(), "full": expected}
