"""files.py: histories in every format, errors of one line, recommendations in parts."""

import csv
import datetime
import json

import numpy as np
import polars as pl
import pytest
from helpers import HISTORIES, make_recommender, serving_config, write_histories

from data_prep.settings import UserError
from ttt4rec_jax.serving import files
from ttt4rec_jax.serving.load_export import Recommendation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with HISTORIES in every format."""
    folder = tmp_path_factory.mktemp("histories")
    write_histories(folder)
    return folder


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("shape", ["lists", "rows"])
def test_every_format_gives_the_same_histories(folder, form, shape):
    expected = {user: clicks for user, clicks in HISTORIES.items() if clicks or shape == "lists"}
    reader = files.Reader(str(folder / f"{shape}.{form}"))
    lists = {user: [int(item) for item in items] for user, items, _ in reader}
    assert lists == expected and reader.done == reader.total


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("as_date", [False, True])
def test_a_column_of_times_orders_the_clicks_of_a_user(tmp_path, form, as_date):
    rows = [(1, 7, 31), (1, 5, 9), (1, 6, 9), (2, 9, 9), (2, 8, 100)]
    table = pl.DataFrame(rows, ("user", "item", "time"), orient="row")
    if as_date:
        table = table.with_columns(time=pl.format("1970-01-0{} 00:00:00", pl.col("time") % 8 + 1))
        table = table.rename({"time": "timestamp"})
    path = tmp_path / f"x.{form}"
    write = {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet}
    write[form](path)
    times = {}
    read = {}
    for user, items, seconds in files.Reader(str(path), reads_times=True):
        read[int(user)] = [int(item) for item in items]
        times[int(user)] = seconds
    assert read == {1: [5, 6, 7], 2: [9, 8]}
    day = 86400
    expected = {1: [1 * day, 1 * day, 7 * day], 2: [1 * day, 4 * day]}
    assert times == (expected if as_date else {1: [9, 9, 31], 2: [9, 100]})


def test_parts_are_joined_even_if_the_types_of_users_differ(random_dataset, tmp_path):
    titles = [f"title {i}" for i in range(1, 31)]
    recommender = make_recommender(serving_config("popularity"), random_dataset, titles)
    two_lists = recommender.recommend([[100], [200]], k=2)
    empty_list = recommender.recommend([[100]], include_only=[100])
    with files.Writer(str(tmp_path / "top.parquet")) as writer:
        for users, lists in (([1, 2], two_lists), (["x"], empty_list), (["a", "b"], two_lists)):
            writer.write(users, lists)
    table = pl.read_parquet(tmp_path / "top.parquet")
    assert table["user"].to_list() == ["1", "1", "2", "2", "a", "a", "b", "b"]
    assert table["item"].dtype == pl.Int64 and table["title"].dtype == pl.String


def test_formulas_are_kept_unless_they_are_to_be_escaped(tmp_path):
    texts = ["=1+1", "+1", "-1", "@a", "\tb", "\rc", "plain", "a=b"]
    scores = np.full(len(texts), -1, np.float32)
    top = Recommendation(texts, scores, texts, "model")
    for is_escaped, mark in ((False, ""), (True, "'")):
        with files.Writer(str(tmp_path / "top.csv"), csv_escape=is_escaped) as writer:
            writer.write(["=user"], [top])
        with open(tmp_path / "top.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        expected = [mark * (text not in ("plain", "a=b")) + text for text in texts]
        assert [row["item"] for row in rows] == [row["title"] for row in rows] == expected
        assert rows[0]["user"] == f"{mark}=user" and rows[0]["score"] == "-1.0"


def test_lone_surrogates_of_json_are_written_as_escapes(tmp_path):
    path = tmp_path / "top.jsonl"
    with files.Writer(str(path)) as writer:
        writer.write(["\ud800"], [Recommendation([1], np.zeros(1, np.float32), None, "model")])
    assert json.loads(path.read_text())["user"] == "\ud800"


def test_lists_come_with_lists_of_times(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"user": 1, "items": [5, 6], "times": [1000, "1970-01-01 00:20:00"]}\n')
    assert list(files.Reader(str(path), True)) == [(1, [5, 6], [1000, 1200])]
    assert list(files.Reader(str(path))) == [(1, [5, 6], None)]
    path.write_text('{"user": 1, "items": [5, 6]}\n')
    with pytest.raises(UserError, match="has no times of clicks, which a run with --time reads"):
        list(files.Reader(str(path), True))
    for content in ("[null]", '["nan"]', '"soon"', "[1e999]"):
        path.write_text(f'{{"user": 1, "items": [5], "times": {content}}}\n')
        with pytest.raises(UserError, match="user 1 has a time that is none"):
            list(files.Reader(str(path), True))
    days = pl.DataFrame({"user": [1], "item": [5], "time": [datetime.date(1970, 1, 3)]})
    days.write_parquet(tmp_path / "x.parquet")
    assert list(files.Reader(str(tmp_path / "x.parquet"), True)) == [(1, [5], [2 * 86400])]


BAD_FILES: dict[str, list[tuple[str | bytes, str]]] = {
    "x.jsonl": [
        ('{"user": 1, "items": [1]}\n{"user": 2, "items"', "line 2 is not JSON"),
        ("[1, 2]\n", "line 1 is [1, 2]"),
        ('{"user": 1, "items": 5}\n', 'line 1 is {"user": 1, "items": 5}'),
        ("", "holds no histories"),
        (
            '{"user": 1, "item": 1}\n{"user": 2, "item": 1}\n{"user": 1, "item": 2}\n',
            "user 1 are not adjacent",
        ),
        (b'{"user": "\xff"}\n', "line 1 is not UTF-8"),
        ('{"user": 1, "items": [1]}\n{"user": 1, "item": 1}\n', "line 2"),
    ],
    "x.csv": [
        ("who,items\n1,2\n", "has the columns who, items"),
        ("user,items\n1\n", "line 2 does not have 2 fields"),
        ('user,items\n1,"2\n', "unexpected end of data"),
        ('user,"items\n', "unexpected end of data"),
        ("user,item,time\n1,2,3\n1,3,soon\n", "has a time that is no time"),
        ("", "has the columns none"),
    ],
    "x.parquet": [("not one", "cannot be read")],
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_unreadable_file_of_histories_is_one_clear_line(tmp_path, name):
    for content, expected in BAD_FILES[name]:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError) as error:
            list(files.Reader(str(tmp_path / name)))
        text = str(error.value)
        assert (
            expected in text
            and "\n" not in text
            and text.startswith(f"--histories: {tmp_path / name}: ")
        )
