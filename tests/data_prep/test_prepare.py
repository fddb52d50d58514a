"""The prepared folder holds what a brute-force preparation gives."""

import dataclasses
import json
import os
import time
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import polars as pl
import pytest
from helpers import contents, random_clicks, write_csv

from data_prep import origin, sources, store
from data_prep import prepare as module
from data_prep.prepare import prepare
from data_prep.settings import DataConfig, UserError
from ttt4rec_jax.data.dataset import load_dataset


def brute(rows, user_core, item_core):
    """{user: [(time, item), ...]} of the k-core, in order."""
    while True:
        users = Counter(r[0] for r in rows)
        items = Counter(r[1] for r in rows)
        kept = [r for r in rows if users[r[0]] >= user_core and items[r[1]] >= item_core]
        if len(kept) == len(rows):
            break
        rows = kept
    return {
        user: sorted(((t, i) for u, i, t in rows if u == user), key=lambda c: c[0])
        for user in sorted({r[0] for r in rows})
    }


@pytest.mark.parametrize("split", ["leave_one_out", "temporal", "user_holdout"])
def test_the_folder_equals_a_brute_force_preparation(config, tmp_path, split):
    config = dataclasses.replace(config, split=split, validation_time=0.5, test_time=0.8)
    folder = prepare(config, cache_dir=tmp_path / "cache")
    expected = brute(random_clicks(), 15, 18)
    assert 5 < len(expected) < 29
    dataset = load_dataset(folder)
    user_ids = pl.read_parquet(folder / "users.parquet")["id"].to_list()
    item_ids = pl.read_parquet(folder / "items.parquet")["id"].to_list()
    assert user_ids == list(expected)
    assert item_ids == sorted({item for clicks in expected.values() for _, item in clicks})
    times = np.load(folder / "timestamps.npy")
    for user, (start, end) in enumerate(zip(dataset.offsets, dataset.offsets[1:], strict=False)):
        found = zip(
            times[start:end].tolist(),
            (item_ids[i - 1] for i in dataset.items[start:end]),
            strict=True,
        )
        assert list(found) == expected[user_ids[user]]
    for targets in (dataset.validation, dataset.test):
        for position, user, drawn in zip(*targets, strict=True):
            first, last = dataset.offsets[user : user + 2]
            assert first < position < last
            assert dataset.train_ends[user] <= position
            assert len(set(drawn.tolist()) - set(dataset.items[first:last].tolist())) == 3
            if split == "leave_one_out":
                assert position == last - (2 if targets is dataset.validation else 1)
    types = {path.stem: np.load(path).dtype.name for path in folder.glob("*.npy")}
    assert types == {
        "items": "int32",
        "timestamps": "int64",
        "offsets": "int64",
        "train_ends": "int64",
        "validation_targets": "int64",
        "test_targets": "int64",
        "validation_negatives": "int32",
        "test_negatives": "int32",
        "is_first": "bool",
        "gaps": "int32",
        "gap_starts": "int32",
    }


def test_manifest_says_where_the_data_comes_from(config, tmp_path):
    folder = prepare(
        dataclasses.replace(config, negatives="popularity", data_seed=4),
        cache_dir=tmp_path / "cache",
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    users = len(brute(random_clicks(), 15, 18))
    assert manifest["name"] == "clicks"
    assert manifest["source"]["file"] == "clicks.csv"
    assert manifest["source"]["bytes"] == Path(config.dataset).stat().st_size
    assert (
        manifest["counts"]["users"]
        == manifest["counts"]["validation"]
        == manifest["counts"]["test"]
        == users
    )
    assert manifest["counts"]["interactions"] == len(np.load(folder / "items.npy"))
    assert manifest["filters"] == {"user_core": 15, "item_core": 18}
    assert manifest["negatives"] == {"kind": "popularity", "number": 3}
    assert manifest["data_seed"] == 4
    assert manifest["split"] == {"kind": "leave_one_out"}
    assert manifest["skipped_rows"] == {"count": 0, "first": []}
    paths = [
        path for path in folder.glob("*.npy") if path.stem not in ("is_first", "gaps", "gap_starts")
    ]
    arrays = {path.stem: np.load(path) for path in paths}
    assert manifest["sha256"] == store.content_digest(arrays)
    arrays["items"][5] += 1
    assert manifest["sha256"] != store.content_digest(arrays)


def test_own_files_are_five_core_by_default(tmp_path):
    rows = [(u, i, 0) for u in range(1, 7) for i in range(1, 7)] + [(99, i, 0) for i in range(1, 5)]
    config = DataConfig(dataset=str(write_csv(tmp_path / "x.csv", rows)), eval_negatives=1)
    # all six users click all six items
    with pytest.raises(UserError, match="catalogue is too small"):
        prepare(config, cache_dir=tmp_path / "cache")
    rows += [(u, 100 + u * 10 + k, 0) for u in range(1, 7) for k in range(3)]
    write_csv(tmp_path / "x.csv", rows)
    folder = prepare(dataclasses.replace(config, item_core=1), cache_dir=tmp_path / "cache")
    assert json.loads((folder / "manifest.json").read_text())["counts"]["users"] == 6
    folder = prepare(
        dataclasses.replace(config, item_core=0, user_core=0), cache_dir=tmp_path / "cache"
    )
    assert json.loads((folder / "manifest.json").read_text())["counts"]["users"] == 7


@pytest.mark.parametrize(("clicks", "most_parts"), [(40, 1000), (1, 4)])
def test_sorting_in_parts_gives_the_same_bytes(config, tmp_path, clicks, most_parts, monkeypatch):
    whole = prepare(config, cache_dir=tmp_path / "whole")
    parts = []
    sort = module.clicks.in_order
    monkeypatch.setattr(module, "SORTED_AT_ONCE", clicks)
    monkeypatch.setattr(module, "MOST_PARTS", most_parts)
    monkeypatch.setattr(
        module.clicks, "in_order", lambda clicks: [parts.append(1), sort(clicks)][1]
    )
    assert contents(prepare(config, cache_dir=tmp_path / "parts")) == contents(whole)
    assert 2 < len(parts) <= most_parts


def test_the_digest_of_a_large_file_is_remembered_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "HASHED_AT_ONCE", 0)
    path = write_csv(tmp_path / "x.csv", random_clicks())
    cache = tmp_path / "cache"
    old = time.time_ns() - 10 * origin.RACY_NS
    os.utime(path, ns=(old, old))
    digest = origin.source_digest(path, cache)
    hashed = []
    monkeypatch.setattr(origin, "file_digest", lambda *args: hashed.append(1) or "new")
    assert origin.source_digest(path, cache) == digest
    assert not hashed
    os.utime(path, ns=(old + 1, old + 1))
    assert origin.source_digest(path, cache) == "new"
    os.utime(path)  # just changed: another change may share its time, so it is not remembered
    assert origin.source_digest(path, cache) == origin.source_digest(path, cache) == "new"
    assert len(hashed) == 3


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """Its clicks would be kept under the digest of the shorter file, and used for that one."""
    path = write_csv(tmp_path / "x.csv", random_clicks())
    cache = tmp_path / "cache"
    read = module.readers.read

    def grow(*args):
        with open(path, "a") as file:
            file.write("1,2,3\n")
        return read(*args)

    monkeypatch.setattr(module.readers, "read", grow)
    with pytest.raises(UserError, match=r"x\.csv was changed while it was read; wait until"):
        prepare(DataConfig(dataset=str(path)), cache_dir=cache)
    assert not list(cache.glob("x-*"))


def test_titles_stand_beside_the_items(tmp_path):
    rows = random_clicks()
    with ZipFile(tmp_path / "ml-1m.zip", "w") as file:
        file.writestr("ml-1m/ratings.dat", "".join(f"{u}::{i}::5::{t}\n" for u, i, t in rows))
        file.writestr(
            "ml-1m/movies.dat",
            "".join(f"{i}::Film {i} (1999)::Drama\n" for i in range(500) if i != 14),
        )
    folder = prepare(
        DataConfig(dataset="ml1m", eval_negatives=2),
        data_dir=tmp_path,
        cache_dir=tmp_path / "cache",
    )
    items = pl.read_parquet(folder / "items.parquet")
    assert items["id"].to_list() == sorted({row[1] for row in rows})
    assert items["title"].to_list() == [
        None if i == 14 else f"Film {i} (1999)" for i in items["id"]
    ]
    assert json.loads((folder / "manifest.json").read_text())["time_unit"] == "seconds"


def test_another_checksum_of_a_local_archive_is_a_warning(tmp_path, caplog):
    test_titles_stand_beside_the_items(tmp_path)
    official = sources.CATALOGUE["ml1m"].md5
    assert f"that of the official archive is {official}; the file is used as is" in caplog.text


def test_the_csv_form_of_amazon_is_used_where_the_other_is_not(tmp_path):
    rows = [(f"U{u}", f"I{(u + k) % 9}", k) for u in range(9) for k in range(6)]
    (tmp_path / "ratings_Beauty.csv").write_text("".join(f"{u},{i},5.0,{t}\n" for u, i, t in rows))
    folder = prepare(
        DataConfig(dataset="beauty", eval_negatives=3),
        data_dir=tmp_path,
        cache_dir=tmp_path / "cache",
    )
    assert (
        json.loads((folder / "manifest.json").read_text())["source"]["file"] == "ratings_Beauty.csv"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_core": 10_000}, "--user_core=10000 --item_core=18: no clicks are left"),
        ({"eval_negatives": 99}, "--eval_negatives=99: the catalogue is too small"),
        (
            {"split": "temporal", "validation_time": 0.5, "test_time": 1.0},
            "no user has a test target",
        ),
        (
            {
                "user_core": 1,
                "item_core": 1,
                "user_col": "time",
                "time_col": "user",
                "item_col": "nope",
            },
            "no column 'nope'",
        ),
    ],
)
def test_settings_that_leave_nothing_to_do_are_errors(config, tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        prepare(dataclasses.replace(config, **change), cache_dir=tmp_path / "cache")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []


def test_folders_come_from_the_flag_else_the_environment_else_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TTT4REC_CACHE_DIR", raising=False)
    assert (
        sources.user_folder("", "TTT4REC_CACHE_DIR", "prepared")
        == tmp_path / "ttt4rec_jax" / "prepared"
    )
    monkeypatch.setenv("TTT4REC_CACHE_DIR", str(tmp_path / "env"))
    assert prepare(DataConfig(dataset="synthetic")).parent == tmp_path / "env"
    assert (
        sources.user_folder(tmp_path / "flag", "TTT4REC_CACHE_DIR", "prepared") == tmp_path / "flag"
    )
