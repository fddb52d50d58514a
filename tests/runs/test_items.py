"""The items of a run as its prepared folder has them."""

import numpy as np
import polars as pl
import pytest

from data_prep import index
from ttt4rec_jax.runs import items


@pytest.mark.parametrize("at_once", [30, 10_000], ids=["in blocks", "at once"])
def test_a_catalogue_counts_training_clicks_alone(random_dataset, tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(index, "CLICKS_AT_ONCE", at_once)
    ids = [f"item {i}" for i in range(1, random_dataset.num_items + 1)]
    pl.DataFrame({"id": ids}).write_parquet(tmp_path / "items.parquet")
    found = items.from_prepared(tmp_path, random_dataset)
    expected = np.zeros(random_dataset.num_items + 1, int)
    for first, end in zip(random_dataset.offsets[:-1], random_dataset.train_ends, strict=True):
        for item in random_dataset.items[first:end]:
            expected[item] += 1
    assert found.ids == ids and found.titles is None
    np.testing.assert_array_equal(found.clicks, expected[1:])
    assert found.most_clicked[0] == 1 + np.argmax(expected[1:])
