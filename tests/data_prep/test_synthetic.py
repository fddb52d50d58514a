"""The built-in data set: seeded, the same everywhere, and with order that matters."""

import itertools
from collections import Counter, defaultdict

import pytest

from data_prep import synthetic
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax.data.dataset import load_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(
        prepare(DataConfig(dataset="synthetic"), cache_dir=tmp_path_factory.mktemp("cache"))
    )


def test_content_is_pinned(dataset):
    # The content hash that every report names. If it changes, results on --dataset=synthetic no
    # longer compare.
    assert dataset.manifest["counts"] == {
        "users": 1500,
        "items": 300,
        "interactions": 30086,
        "validation": 1500,
        "test": 1500,
    }
    assert (
        dataset.manifest["sha256"]
        == "bc4d0b65e74fe9e5b3c97624a387580127cdb711866fc1140d9ea7c7e37d76d4"
    )


def test_seeds_differ_and_nobody_clicks_an_item_twice():
    first = synthetic.generate(0)
    second = synthetic.generate(1)
    assert first.equals(synthetic.generate(0))
    assert not first.equals(second)
    assert not second.select("user", "item").is_duplicated().any()


def test_the_last_clicks_tell_the_next_far_better_than_popularity(dataset):
    follows = defaultdict(Counter)
    popular = Counter()
    ends = dataset.train_ends.tolist()
    for start, end in zip(dataset.offsets.tolist(), ends, strict=False):
        sequence = dataset.items[start:end].tolist()
        popular.update(sequence)
        for previous, following in itertools.pairwise(sequence):
            follows[previous][following] += 1
    hits = Counter()
    for position, candidates in zip(
        dataset.test.positions.tolist(), dataset.test.negatives.tolist(), strict=True
    ):
        target, last, before = dataset.items[[position, position - 1, position - 2]].tolist()

        def order_score(item, last=last, before=before):
            return follows[last][item] + follows[before][item] / 3 + popular[item] / 1e6

        for name, score in (("popularity", popular.__getitem__), ("order", order_score)):
            hits[name] += sum(score(item) >= score(target) for item in candidates) < 10
    assert hits["popularity"] < 0.4 * 1500
    assert hits["order"] > 0.7 * 1500
