"""The items of a run, as its prepared folder and its own folder have them."""

import numpy as np
import polars as pl
import pytest

from data_prep import index
from ttt4rec_jax.runs import items
from ttt4rec_jax.runs.folder import RunFolder


def training_counts(dataset) -> np.ndarray:
    counts = np.zeros(dataset.num_items + 1, int)
    for first, end in zip(dataset.offsets[:-1], dataset.train_ends, strict=True):
        for item in dataset.items[first:end]:
            counts[item] += 1
    return counts


@pytest.mark.parametrize("at_once", [30, 10_000], ids=["in blocks", "at once"])
def test_a_catalogue_counts_training_clicks_alone(random_dataset, tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(index, "CLICKS_AT_ONCE", at_once)
    ids = [f"item {i}" for i in range(1, random_dataset.num_items + 1)]
    pl.DataFrame({"id": ids}).write_parquet(tmp_path / "items.parquet")
    catalogue = items.from_prepared(tmp_path, random_dataset)
    expected = training_counts(random_dataset)
    assert catalogue.ids == ids and catalogue.titles is None
    np.testing.assert_array_equal(catalogue.clicks, expected[1:])
    assert catalogue.most_clicked[0] == 1 + np.argmax(expected[1:])


def test_what_is_saved_is_what_is_read(random_dataset, tmp_path):
    folder = RunFolder(tmp_path)
    counts = training_counts(random_dataset)
    catalogue = items.Catalogue(list(range(10, 40)), [None, *"b" * 29], counts[1:])
    items.save(folder, catalogue, random_dataset, is_trained=True)
    assert not folder.training_clicks.exists()
    items.save(folder, catalogue, random_dataset, is_trained=False)
    got = items.read(folder.catalogue)
    assert (got.ids, got.titles) == (catalogue.ids, catalogue.titles)
    np.testing.assert_array_equal(got.clicks, counts[1:])
    clicks, offsets = items.training_clicks(folder.training_clicks)
    np.testing.assert_array_equal(np.bincount(clicks, minlength=len(counts)), counts)
    lengths = random_dataset.train_ends - random_dataset.offsets[:-1]
    np.testing.assert_array_equal(np.diff(offsets), lengths)


def test_ids_are_found_as_numbers_as_text_and_as_whole_floats():
    long = 1_234_567_890_123_456_789
    numbers = items.Catalogue([7, long], None, np.ones(2, int))
    for history in ([7, long], ["7", str(long)], [7.0], ["7.0"], [np.int64(7), np.int64(long)]):
        (found,) = numbers.encode([history])
        assert found.tolist() == [1, 2][: len(history)]
    texts = items.Catalogue(["7", str(2**64 - 1)], None, np.ones(2, int))
    (found,) = texts.encode([[7, 2**64 - 1, 7.0]])
    assert found.tolist() == [1, 2, 1]
    with pytest.raises(ValueError, match="1 ids are not in the run's data: None"):
        items.Catalogue(["None"], None, np.ones(1, int)).encode([[None]])
