"""The figures of prepared data, against brute force; what is noticed; what is counted."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from helpers import random_clicks, write_csv

from data_prep import summary
from data_prep.clicks import without_repeats
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from data_prep.tables import encode


def manifest_of(tmp_path, rows, **options):
    tmp_path.mkdir(exist_ok=True)
    path = write_csv(tmp_path / "clicks.csv", rows)
    options = {"eval_negatives": 3, "user_core": 1, "item_core": 1} | options
    folder = prepare(DataConfig(dataset=str(path), **options), cache_dir=tmp_path / "cache")
    return json.loads((folder / "manifest.json").read_text()), folder


def test_figures_equal_a_brute_force_count(tmp_path):
    rows = random_clicks()
    manifest, _ = manifest_of(tmp_path, rows)
    figures = manifest["summary"]
    pairs = Counter((u, t) for u, _, t in rows)
    assert figures["tied_share"] == round(sum(n for n in pairs.values() if n > 1) / 600, 4)
    assert figures["duplicates"] == 600 - len(set(rows)) > 0
    assert figures["repeated_share"] == round(1 - len({row[:2] for row in rows}) / 600, 4)
    assert figures["median_history"] == np.median(list(Counter(u for u, *_ in rows).values()))
    assert figures["time_span"] == [min(t for *_, t in rows), max(t for *_, t in rows)]
    assert manifest["rows"]["read"] == 600
    text = "\n".join(summary.lines(manifest))
    assert "600 rows read; columns user=user, item=item, time=time" in text
    assert f"{figures['duplicates']} clicks are exact duplicates" in text


def test_input_that_is_sorted_by_item_is_noticed_and_can_be_shuffled(tmp_path):
    times = (1, 1, 1, 2, 3, 3, 9)  # of user 0; a user's last click has the time of the next's first
    rows = [(u, f"i{i:03}", t + 8 * u) for u in range(60) for i, t in enumerate(times, u)]
    sentence = "100% of 180 neighbouring clicks with equal times are in the order of their item ids"
    manifest, folder = manifest_of(tmp_path, rows)
    assert sentence in "\n".join(summary.lines(manifest))
    manifest, reversed_folder = manifest_of(tmp_path, rows[::-1])
    assert sentence in "\n".join(summary.lines(manifest))
    manifest, shuffled = manifest_of(tmp_path, rows, ties="shuffled")
    figures = manifest["summary"]
    assert figures["tied_pairs"] == 180 and 60 < figures["tied_pairs_ascending"] < 120
    assert "in the order of their item ids" not in "\n".join(summary.lines(manifest))
    arrays = [
        {name: np.load(f / f"{name}.npy") for name in ("items", "timestamps", "offsets")}
        for f in (folder, reversed_folder, shuffled)
    ]
    moments = np.arange(60).repeat(7) * 1000 + arrays[0]["timestamps"]
    clicks = set(zip(moments, arrays[0]["items"], strict=True))
    for one in arrays[1:]:
        np.testing.assert_array_equal(one["timestamps"], arrays[0]["timestamps"])
        assert set(zip(moments, one["items"], strict=True)) == clicks
    again, other = (
        manifest_of(tmp_path / f"seed {seed}", rows, ties="shuffled", data_seed=seed)[1]
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(np.load(again / "items.npy"), arrays[2]["items"])
    assert (np.load(other / "items.npy") != arrays[2]["items"]).any()


def test_rows_are_counted_wherever_they_go(tmp_path):
    rows = [*random_clicks(), ("x", "", 1)]
    manifest, _ = manifest_of(
        tmp_path, rows, where="time < 30", on_bad_rows="skip", dedup="all", item_core=12
    )
    counts = manifest["rows"]
    assert counts["read"] == 601
    assert counts["skipped"] == 1
    assert counts["where"] == sum(t >= 30 for *_, t in rows)
    kept = {row[:2] for row in random_clicks() if row[2] < 30}
    assert counts["dedup"] == 600 - counts["where"] - len(kept)
    assert counts["cores"] == len(kept) - manifest["counts"]["interactions"] > 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("consecutive", [("u", "a", 1), ("u", "b", 3), ("u", "a", 4), ("v", "a", 5)]),
        ("all", [("u", "a", 1), ("u", "b", 3), ("v", "a", 5)]),
    ],
)
def test_repeats(kind, expected):
    rows = [("u", "a", 1), ("u", "a", 4), ("v", "a", 5), ("u", "a", 2), ("u", "b", 3)]
    table = encode(pl.LazyFrame(rows, ("user", "item", "time"), orient="row"))
    kept = without_repeats(table.lazy(), kind).with_columns(pl.col("user", "item").cast(pl.String))
    assert kept.sort("user", "time").collect().rows() == expected


def test_exact_duplicates_are_dropped_by_dedup(tmp_path):
    rows = random_clicks(clicks=200, items=200)
    rows = list(dict.fromkeys(rows))
    twice, _ = manifest_of(tmp_path, [row for row in rows for _ in range(2)], dedup="consecutive")
    once, _ = manifest_of(tmp_path, rows, dedup="consecutive")
    assert twice["sha256"] == once["sha256"]
    assert twice["rows"]["read"] == 2 * once["rows"]["read"]


def test_ids_that_may_stand_for_something_else_are_asked_about(tmp_path):
    rows = [(f"u{n % 30}", f"i{n % 40}", n) for n in range(300)]
    rows += [("NA", f"i{n % 40}", n) for n in range(300)]
    manifest, _ = manifest_of(tmp_path, rows)
    (notice,) = manifest["notices"]
    assert notice == (
        "the user 'NA' has 300 of 600 clicks (50%); is it a missing value or a robot? "
        "--where=\"user <> 'NA'\" leaves it out"
    )
    manifest, _ = manifest_of(tmp_path, rows, where="user <> 'NA'")
    assert manifest["notices"] == []


def test_heavy_users_are_left_out_of_the_sampled_evaluation(tmp_path):
    rows = [(u, i, i) for u in range(20) for i in range(u, u + 6)]
    rows += [(99, i, i) for i in range(23)]
    manifest, folder = manifest_of(tmp_path, rows, eval_negatives=5)
    assert manifest["summary"]["test_without_negatives"] == 1
    drawn = np.load(folder / "test_negatives.npy")
    assert (drawn > 0).all(1).tolist() == [True] * 20 + [False]
    assert (drawn[20] == 0).all()
    assert "1 of 21 test users leave fewer unclicked items than --eval_negatives=5" in "\n".join(
        summary.lines(manifest)
    )


def test_ids_that_are_whole_floats_or_long_are_integers(tmp_path):
    long = 1_234_567_890_123_456_789
    rows = [(f"{u}.0", long + i, i) for u in range(9) for i in range(u, u + 5)]
    _, folder = manifest_of(tmp_path, rows)
    assert pl.read_parquet(folder / "users.parquet")["id"].to_list() == list(range(9))
    assert pl.read_parquet(folder / "items.parquet")["id"].to_list() == [
        long + i for i in range(13)
    ]
