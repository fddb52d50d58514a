"""Every data set of the catalogue is read from a small file in its exact form."""

import collections
import json

import numpy as np
import polars as pl
import pytest
from exact_forms import FORMS, OTHER_FORMS, TITLES, clicks
from helpers import error_of

from data_prep.catalogue import CATALOGUE
from data_prep.prepare import prepare
from data_prep.settings import DataConfig

CASES = [*FORMS.items(), *OTHER_FORMS.items()]
WITHOUT_TIMES = ("s3rec:Toys_and_Games", "bookcrossing")


def histories(folder):
    """Return {user: items in order} of a prepared folder, with ids as text."""
    users, items = (
        pl.read_parquet(folder / f"{name}.parquet")["id"].cast(pl.String).to_list()
        for name in ("users", "items")
    )
    offsets = np.load(folder / "offsets.npy")
    clicked = np.load(folder / "items.npy")
    return {
        user: [items[i - 1] for i in clicked[start:end]]
        for user, start, end in zip(users, offsets, offsets[1:], strict=False)
    }


def expected(rows, source, user, item):
    """Return the histories of clicks in order of time, after the filters, by their definition."""
    rows = sorted(rows, key=lambda row: row[2])
    while True:
        users, items = (collections.Counter(row[n] for row in rows) for n in (0, 1))
        kept = [
            (u, i, t)
            for u, i, t in rows
            if users[u] >= source.user_core and items[i] >= source.item_core
        ]
        if len(kept) == len(rows):
            break
        rows = kept
    found = collections.defaultdict(list)
    for u, i, _ in rows:
        found[str(user(u))].append(str(item(i)))
    return found


@pytest.mark.parametrize(("name", "make"), CASES, ids=[f"{n}-{m.__name__}" for n, m in CASES])
def test_a_file_in_its_exact_form(name, make, tmp_path):
    rows = clicks()
    user, item = make(tmp_path, rows)
    config = DataConfig(dataset=name, eval_negatives=1)
    folder = prepare(config, data_dir=tmp_path, cache_dir=tmp_path / "cache")
    source = CATALOGUE[name]
    assert histories(folder) == expected(rows, source, user, item)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["name"] == name
    assert manifest["skipped_rows"] == {"count": 0, "first": []}
    times = np.load(folder / "timestamps.npy")
    if name in WITHOUT_TIMES:
        assert not times.any()
        message = error_of(prepare, DataConfig(dataset=name, split="temporal"), data_dir=tmp_path)
        assert message.startswith(f"--split=temporal: {name} has no times")
    else:  # the unit that is said is the right one: 2009 to 2023
        scale = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6}
        seconds = times / scale[manifest["time_unit"]]
        assert 1.2e9 < seconds.min() < seconds.max() < 1.7e9
    if name in TITLES:
        titles = pl.read_parquet(folder / "items.parquet")
        assert (
            dict(titles.select(pl.col("id").cast(pl.String), "title").iter_rows())[str(item(2))]
            == TITLES[name]
        )


def test_every_data_set_has_a_file_in_its_form():
    """A family's data sets differ in names alone, so that some stand for all."""
    shown = {name for name, _ in CASES} | {CATALOGUE[name].family for name, _ in CASES}
    assert {s.family or s.name for s in CATALOGUE.values()} - shown == {"synthetic"}
