"""The windows of a rolling split: each is a split by time of data that end with it."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from data_prep.prepare import prepare
from data_prep.settings import DataConfig, UserError
from data_prep.split import at_times
from data_prep.windows import Window, window_of

WINDOWS = 3


def rows_of(seed=0):
    """Random clicks of users who come one after the other; several clicks at a time."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 60, 1200)
    return pl.DataFrame(
        {
            "user": users,
            "item": rng.integers(0, 50, 1200),
            "time": (15 * users + rng.integers(0, 900, 1200)) // 3,
        }
    )


def config_of(path, **options):
    settings = {"user_core": 4, "item_core": 6, "eval_negatives": 5, "validation_time": 0.4}
    return DataConfig(dataset=str(path), split="rolling", windows=WINDOWS, **settings | options)


def load(folder):
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    return arrays, json.loads((folder / "manifest.json").read_text())


def test_windows_follow_one_another():
    times = np.random.default_rng(1).permutation(np.arange(1000, 2000))
    kept = pl.LazyFrame({"time": times})
    found = [window_of(kept, config_of("x.csv", window=w)) for w in range(1, WINDOWS + 1)]
    # the last 60% in four parts of 15%
    bounds = [1400, 1550, 1700, 1850, 2000]
    assert found == [Window(*bounds[w : w + 3]) for w in range(WINDOWS)]


@pytest.mark.parametrize("window", range(1, WINDOWS + 1))
def test_a_window_is_the_split_by_time_of_the_clicks_before_its_end(tmp_path, window):
    rows = rows_of()
    path = tmp_path / "clicks.csv"
    rows.write_csv(path)
    arrays, manifest = load(prepare(config_of(path, window=window), cache_dir=tmp_path / "cache"))
    cuts = window_of(rows.lazy(), config_of(path, window=window))
    before = rows.filter(pl.col("time") < cuts.end)
    assert manifest["rows"]["later"] == len(rows) - len(before)
    assert (manifest["rows"]["later"] == 0) == (window == WINDOWS)
    # what a file holds that ends with the window
    short = tmp_path / "short.csv"
    before.write_csv(short)
    whole = dataclasses.replace(config_of(short), split="leave_one_out")
    expected, _ = load(prepare(whole, cache_dir=tmp_path / "cache"))
    for name in ("items", "timestamps", "offsets"):
        assert np.array_equal(arrays[name], expected[name]), name
    parts = at_times(arrays["offsets"], arrays["timestamps"], cuts.validation, cuts.test)
    assert np.array_equal(arrays["train_ends"], parts.train_ends)
    for name in ("validation", "test"):
        assert np.array_equal(arrays[f"{name}_targets"], getattr(parts, name))
        assert len(getattr(parts, name)) > 5
    assert manifest["split"] == {
        "kind": "rolling",
        "validation_time": 0.4,
        "windows": WINDOWS,
        "window": window,
    }


def test_data_are_prepared_for_one_window_at_a_time():
    with pytest.raises(UserError, match="name one of 1 to 3, as in --window=1"):
        prepare(config_of("not there.csv"))  # said before anything is read


def test_later_clicks_change_nothing(tmp_path):
    """Users and items after a window's end are unknown to it, to its filters and its negatives."""
    rows = rows_of()
    other = rows_of(seed=2).with_columns(pl.col("user") + 100, pl.col("item") + 100)
    digests = []
    for name, later in {"a": rows, "b": other}.items():
        path = tmp_path / f"{name}.csv"
        config = config_of(path, window=2, negatives="popularity")
        end = window_of(rows.lazy(), config).end
        is_late = rows["time"] >= end
        mixed = pl.DataFrame(
            {
                column: pl.select(
                    pl.when(is_late).then(later[column]).otherwise(rows[column])
                ).to_series()
                for column in ("user", "item")
            }
            | {"time": rows["time"]}
        )
        mixed.write_csv(path)
        digests.append(load(prepare(config, cache_dir=tmp_path / "cache"))[1]["sha256"])
    assert digests[0] == digests[1]
