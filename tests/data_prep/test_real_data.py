"""The real archives give the counts of the literature.

They are never committed; see the marker `realdata`.
"""

import json
import os
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import polars as pl
import pytest

from data_prep import index, sources
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax.data.dataset import load_dataset

ARCHIVES = Path(os.environ.get("TTT4REC_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def prepared(name, cache, **flags):
    if not (ARCHIVES / sources.CATALOGUE[name].file).exists():
        pytest.skip(f"no {sources.CATALOGUE[name].file} in {ARCHIVES}; set TTT4REC_TEST_DATA")
    return prepare(DataConfig(dataset=name, **flags), data_dir=ARCHIVES, cache_dir=cache)


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("ml1m", 6_040, 3_416, 999_611),
        ("beauty", 22_363, 12_101, 198_502),
        ("electronics", 28_566, 15_743, 241_198),
        # as in the table of S3-Rec's paper
        ("s3rec:Sports_and_Outdoors", 35_598, 18_357, 296_337),
        ("s3rec:Toys_and_Games", 19_412, 11_924, 167_597),
        ("s3rec:LastFM", 1_090, 3_646, 52_551),
    ],
)
def test_counts(name, users, items, interactions, cache):
    dataset = load_dataset(prepared(name, cache))
    counts = {
        "users": users,
        "items": items,
        "interactions": interactions,
        "validation": users,
        "test": users,
    }
    # the whole set instead of the sample
    if name == "electronics" and dataset.manifest["counts"]["users"] == 192_403:
        counts = {
            "users": 192_403,
            "items": 63_001,
            "interactions": 1_689_188,
            "validation": 192_403,
            "test": 192_403,
        }
    assert dataset.manifest["counts"] == counts
    if name == "beauty":  # its file is sorted by item, and its times are days
        figures = dataset.manifest["summary"]
        assert figures["tied_pairs"] == figures["tied_pairs_ascending"] == 77_402
    assert np.bincount(dataset.items).tolist()[0] == 0
    least = 1 if name == "s3rec:LastFM" else 5  # its items are no 5-core
    assert np.bincount(dataset.items)[1:].min() >= least
    for targets in (dataset.validation, dataset.test):
        keys = np.sort(targets.negatives, axis=1)
        assert (keys[:, 1:] != keys[:, :-1]).all()
        clicked = (
            np.repeat(np.arange(len(dataset.offsets) - 1), np.diff(dataset.offsets)) * 10**6
            + dataset.items
        )
        assert not np.isin(targets.users[:, None] * 10**6 + targets.negatives, clicked).any()


def test_movielens_keeps_the_archive_s_order_within_a_second(cache):
    folder = prepared("ml1m", cache)
    text = ZipFile(ARCHIVES / "ml-1m.zip").read("ml-1m/ratings.dat").replace(b"::", b" ")
    users, clicked, _, times = np.array(text.split(), np.int64).reshape(-1, 4).T
    items = pl.read_parquet(folder / "items.parquet")
    ids = items["id"].to_numpy()
    order = np.lexsort((times, users))  # stable
    order = order[np.isin(clicked[order], ids)]
    numbers = np.searchsorted(ids, clicked[order]) + 1
    np.testing.assert_array_equal(np.load(folder / "items.npy"), numbers)
    np.testing.assert_array_equal(np.load(folder / "timestamps.npy"), times[order])
    assert items.filter(id=1)["title"].item() == "Toy Story (1995)"


@pytest.mark.parametrize("name", ["ml1m", "beauty"])
def test_temporal_split_of_real_data(name, cache):
    folder = prepared(name, cache, split="temporal", negatives="popularity")
    dataset = load_dataset(folder)
    times = np.load(folder / "timestamps.npy")
    trained = index.is_training(dataset.offsets, dataset.train_ends)
    latest = times[trained].max()
    validation = times[dataset.validation.positions]
    test = times[dataset.test.positions]
    assert latest < validation.min() <= validation.max() < test.min()
    assert abs(trained.mean() - 0.8) < 0.01
    assert json.loads((folder / "manifest.json").read_text())["split"]["kind"] == "temporal"
