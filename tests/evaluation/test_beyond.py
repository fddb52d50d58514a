"""Measures of lists, and segments of targets, against loops and by hand."""

import itertools

import numpy as np
import pytest
from helpers import make_dataset

from ttt4rec_jax.evaluation.beyond import beyond_accuracy, gini
from ttt4rec_jax.evaluation.segments import by_segment, history_names, item_parts, segments
from ttt4rec_jax.metrics import Ranks, summarise


def test_measures_equal_loops_over_lists():
    rng = np.random.default_rng(3)
    V = 12
    lists = np.stack([rng.permutation(np.arange(1, V + 1))[:6] for _ in range(25)])
    lists[rng.random(lists.shape) < 0.1] = 0
    lists[3] = 0  # an empty list
    clicks = rng.integers(0, 9, V)
    clicks[2] = 0
    categories = rng.random((V, 4)) < 0.4
    categories[5] = False
    target = rng.integers(1, V + 1, 25)
    found = beyond_accuracy(lists, clicks, target, (1, 3, 6, 7), categories)
    assert "coverage@7" not in found and "diversity@1" not in found
    for k in (3, 6):
        slots = [0] * V
        popularity = []
        novelty = []
        diversity = []
        for row in lists[:, :k].tolist():
            items = [item - 1 for item in row if item]
            for item in items:
                slots[item] += 1
            if items:
                popularity.append(np.mean([clicks[i] for i in items]))
                novelty.append(np.mean([-np.log2(max(clicks[i], 1) / clicks.sum()) for i in items]))
            pairs = []
            for a, b in itertools.combinations(items, 2):
                one = set(np.flatnonzero(categories[a]))
                other = set(np.flatnonzero(categories[b]))
                if one and other:
                    pairs.append(1 - len(one & other) / len(one | other))
            if pairs:
                diversity.append(np.mean(pairs))
        assert found[f"coverage@{k}"] == np.mean([n > 0 for n in slots])
        differences = sum(abs(a - b) for a in slots for b in slots)
        assert found[f"gini@{k}"] == pytest.approx(differences / (2 * V * sum(slots)))
        assert found[f"popularity@{k}"] == pytest.approx(np.mean(popularity))
        assert found[f"novelty@{k}"] == pytest.approx(np.mean(novelty))
        assert found[f"diversity@{k}"] == pytest.approx(np.mean(diversity))
        half = 1.96 * np.std(diversity, ddof=1) / np.sqrt(len(diversity))
        assert found[f"diversity@{k}_ci95"] == pytest.approx(half)
    assert found["popularity_clicked"] == pytest.approx(clicks[target - 1].mean())


def test_gini_of_equal_shares_and_of_one_item_for_all():
    assert gini(np.full(7, 3)) == 0
    assert gini(np.array([0, 0, 0, 5])) == pytest.approx(3 / 4)


def test_parts_of_items_do_not_depend_on_the_order_of_equal_ones():
    # 30 clicks: the first item has a third, the next two are equal and lie on both sides of 2/3
    clicks = np.array([1, 8, 10, 8, 0, 2, 1])
    assert item_parts(clicks).tolist() == [2, 1, 0, 1, 3, 2, 2]
    order = np.random.default_rng(0).permutation(7)
    assert item_parts(clicks[order]).tolist() == item_parts(clicks)[order].tolist()


def test_segments_partition_the_targets_and_have_their_own_metrics():
    sequences = [[1] * n for n in (3, 4, 6, 12, 150)]
    dataset = make_dataset([*sequences, [2, 3, 4]], 30)
    groups = segments(dataset, dataset.test, np.array([9, 0, 0, 0] + [1] * 26))
    assert {name: np.flatnonzero(x).tolist() for name, x in groups["history"].items()} == {
        "1-4": [0, 1, 5], "5-9": [2], "10-19": [3], "100+": [4],
    }  # fmt: skip
    assert {name: np.flatnonzero(x).tolist() for name, x in groups["item"].items()} == {
        "head": [0, 1, 2, 3, 4], "cold": [5],
    }  # fmt: skip
    assert history_names()[0] == "0"
    ranks = Ranks(np.array([0, 3, 7, 0, 1, 29]), np.zeros(6, int), np.full(6, 29))
    found = by_segment({"full": ranks}, groups)
    chosen = Ranks(*(x[[0, 1, 5]] for x in ranks))
    assert found["history"]["1-4"] == {"targets": 3, "full": summarise(chosen)}
    of_lists = by_segment({"full": ranks}, groups, {"full": (1, 5)})
    values = of_lists["history"]["1-4"]["full"]
    assert values["hit@5"] == pytest.approx(2 / 3) and not {"mrr", "hit@10"} & values.keys()
