"""The files of ../shared/cases, where they are: forms in which people have brought their clicks.

Each is read with its right value. test_forms.py makes such files itself.
"""

import csv
import json
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_prep import summary
from data_prep.prepare import prepare
from data_prep.settings import DataConfig, UserError

CASES = Path(os.environ.get("TTT4REC_TEST_CASES", Path(__file__).parents[3] / "shared" / "cases"))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no folder {CASES}")
WHOLE = {"users": 60, "items": 149, "interactions": 720}


class Prepared:
    """A prepared case: its manifest, and each user's items in order, as {user: ids}."""

    def __init__(self, folder):
        self.manifest = json.loads((folder / "manifest.json").read_text())
        users, items = (
            pl.read_parquet(folder / f"{name}.parquet")["id"].to_list()
            for name in ("users", "items")
        )
        offsets = np.load(folder / "offsets.npy")
        clicks = np.load(folder / "items.npy")
        self.histories = {
            user: [items[i - 1] for i in clicks[start:end]]
            for user, start, end in zip(users, offsets, offsets[1:], strict=False)
        }

    @property
    def notices(self):
        return "\n".join(summary.notices_of(self.manifest))

    def counts(self):
        return {name: self.manifest["counts"][name] for name in WHOLE}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def prepared(name, **options):
        options = {"user_core": 1, "item_core": 1, "eval_negatives": 5} | options
        config = DataConfig(dataset=str(CASES / name), **options)
        return Prepared(prepare(config, cache_dir=cache))

    return prepared


@pytest.fixture(scope="module")
def reference(case):
    """The clicks of ml25m_ratings.csv, by the csv module."""
    users = defaultdict(list)
    with open(CASES / "ml25m_ratings.csv", newline="") as file:
        for row in csv.DictReader(file):
            users[int(row["userId"])].append((int(row["timestamp"]), int(row["movieId"])))
    histories = {user: [item for _, item in sorted(clicks)] for user, clicks in users.items()}
    found = case("ml25m_ratings.csv")
    assert found.histories == histories
    return found


SAME_HASH = [
    ("semicolon.csv", {}),
    ("comments.csv", {}),
    ("ml100k_u.data", {"columns": "user,item,rating,time"}),
    ("clicks.zip", {}),
    ("clicks.csv.bz2", {}),
    ("clicks.csv.zst", {}),
    ("clicks.ndjson", {}),
    ("clicks.json", {}),
    ("clicks.arrow", {}),
    ("parts", {}),
    ("parts/*.parquet", {}),
]
SAME_ORDER = [
    ("gowalla.txt", {"columns": "user,time,_,_,item"}),
    ("retailrocket.csv", {}),
    ("times_utc_suffix.csv", {}),
    ("times_slash.csv", {}),
    ("times_float_us.csv", {}),
    ("pandas_floats.parquet", {}),
]
BY_NUMBER = [
    ("sasrec_pairs.txt", {"columns": "user,item"}),
    ("s3rec_sequences.txt", {"layout": "sequences"}),
]
OTHERS = [("hm.csv", {}), ("steam.json", {}), ("no_time.csv", {"time_col": "none"})]


@pytest.mark.parametrize(("name", "options"), [*SAME_HASH, *SAME_ORDER, *BY_NUMBER, *OTHERS])
def test_forms_of_the_same_clicks(case, reference, name, options):
    found = case(name, **options)
    assert found.counts() == WHOLE
    assert found.manifest["rows"]["read"] == 720
    if (name, options) in SAME_HASH:
        assert found.manifest["sha256"] == reference.manifest["sha256"]
    elif (name, options) in SAME_ORDER:
        assert found.histories == reference.histories
    elif (name, options) in BY_NUMBER:
        shifted = {u + 1: [i + 1 for i in items] for u, items in reference.histories.items()}
        assert found.histories == shifted


def test_default_filters_of_the_same_clicks(case):
    core = case("ml25m_ratings.csv", user_core=-1, item_core=-1)
    assert core.counts() == {"users": 60, "items": 74, "interactions": 487}


def test_without_times_the_rows_are_in_order(case):
    users = defaultdict(list)
    with open(CASES / "no_time.csv", newline="") as file:
        for row in csv.DictReader(file):
            users[int(row["user"])].append(int(row["item"]))
    found = case("no_time.csv", time_col="none")
    assert found.histories == users
    assert found.manifest["time_unit"].startswith("none")


def test_leading_zeros_are_kept(case):
    found = case("hm.csv")
    assert all(len(user) == 64 for user in found.histories)
    assert all(re.fullmatch("0[0-9]{9}", i) for items in found.histories.values() for i in items)


def test_conditions_over_columns(case):
    with open(CASES / "retailrocket.csv", newline="") as file:
        views = sum(row["event"] == "view" for row in csv.DictReader(file))
    found = case("retailrocket.csv", where="event = 'view'")
    assert found.counts()["interactions"] == views
    assert found.manifest["where"] == "event = 'view'"
    found = case("ml25m_ratings.csv", where="rating >= 4")
    assert found.counts()["interactions"] == 263
    assert found.manifest["rows"] | {"left": 263} == found.manifest["rows"]
    assert found.manifest["rows"]["where"] == 457


@pytest.mark.parametrize(
    ("name", "line", "left", "options"),
    [("unclosed_quote.csv", 102, 719, {}), ("lastfm_quotes.tsv", 7, 64, {"noquoted": 72})],
)
def test_open_quotes(case, name, line, left, options):
    with pytest.raises(UserError, match=f"line {line}: not CSV .*--noquoted"):
        case(name)
    found = case(name, on_bad_rows="skip")
    assert found.counts()["interactions"] == left
    rows = found.manifest["rows"]
    assert rows["read"] == left + rows["skipped"]
    for clicks in options.values():
        assert case(name, quoted=False).counts()["interactions"] == clicks


def test_a_heavy_user_takes_no_part_in_the_sampled_evaluation(case):
    found = case("saw_almost_all.csv", eval_negatives=99)
    assert found.counts()["users"] == 60
    assert found.manifest["summary"]["test_without_negatives"] == 1
    assert "1 of 60 test users leave fewer unclicked items" in found.notices


def test_cold_targets_are_counted(case):
    found = case("temporal_cold.csv", split="temporal")
    assert found.manifest["summary"]["test_cold_targets"] > 0
    assert "test targets are items without training clicks" in found.notices
    assert "35 users have no training click; of these, 35 have a test target" in found.notices


@pytest.mark.parametrize(
    ("name", "options", "clicks", "said"),
    [
        ("kuaisar.csv", {}, 72, "the time is read from timestamp, not from time"),
        ("amazon2023.jsonl.gz", {}, 72, "the item is read from parent_asin, not from asin"),
        ("floats.parquet", {}, None, ""),
        ("udata.tsv", {"columns": "user,item,_,time"}, 72, ""),
        ("goodreads.jsonl", {}, 72, ""),
        ("date_time.csv", {}, 72, ""),
        ("date_time.csv", {"time_col": "date,time"}, 72, ""),
        ("dup_twice.csv", {}, 3200, "1,600 clicks are exact duplicates"),
        ("dup_twice.csv", {"dedup": "consecutive"}, None, ""),
        ("diginetica_na.csv", {}, 480, "the user 'NA' has 240 of 480 clicks (50%)"),
    ],
)
def test_what_is_read_and_said(case, name, options, clicks, said):
    found = case(name, **options)
    if clicks:
        assert found.counts()["interactions"] == clicks
    assert said in found.notices


def test_duplicates_are_dropped(case):
    twice = case("dup_twice.csv", dedup="consecutive")
    assert twice.histories == case("dup_plain.csv", dedup="consecutive").histories


def test_float_ids_are_those_of_whole_numbers(case):
    found = case("floats.parquet")
    histories = pl.read_parquet(CASES / "ints_h.parquet")
    known = {item for items in found.histories.values() for item in items}
    assert set(histories["item"]) <= known
    assert all(isinstance(user, int) for user in found.histories)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("no_time.csv", {}, "--time_col=none if the rows are in order"),
        ("ml100k_u.data", {}, "--columns=user,item,_,time"),
        ("udata.tsv", {"user_col": "11", "item_col": "2", "time_col": "4"}, "no header"),
        ("s3rec_sequences.txt", {}, "--layout=sequences"),
    ],
)
def test_what_helps_is_said(case, name, options, said):
    with pytest.raises(UserError) as caught:
        case(name, **options)
    assert said in str(caught.value)
