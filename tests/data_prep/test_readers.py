"""Every form of file, of times and of column names; what is said about an unusable file."""

import gzip
from datetime import UTC, date, datetime

import polars as pl
import pytest
from helpers import CLICK_ROWS, as_json, as_lines, as_parquet, error_of, rows_of

from data_prep import readers, sources


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", as_lines(",", ("user", "item", "time"))),
        ("x.CSV", as_lines(",", ("User ID", "ITEM-ID", "Timestamp"))),
        ("x.tsv", as_lines("\t", ("session_id", "product_id", "created_at"))),
        ("x.inter", as_lines("\t", ("user_id:token", "item_id:token", "timestamp:float"))),
        ("x.jsonl", as_json(keys=("reviewerID", "asin", "unixReviewTime"))),
        ("x.csv.gz", gzip.compress(as_lines(",", ("uid", "movieId", "ts")).encode(), mtime=0)),
        ("x.json.gz", gzip.compress(as_json().encode(), mtime=0)),
        ("odd[1]*.csv", as_lines(",", ("user", "item", "time"))),  # no pattern
        ("odd[1]*.jsonl", as_json()),
        ("x.csv", "\ufeff" + as_lines(",", ("user", "item", "time"))),
        ("x.csv", as_lines(",", ("user", "item", "time")).replace("\n", "\r\n")),
        ("x.csv", as_lines(",", ("user", "item", "time"))[:-1]),
        ("x.csv", as_lines(",", ("user", "item", "time")) + "\n\n"),  # blank lines
        ("x.jsonl", as_json() + "\n\n"),
        (
            "x.csv",
            as_lines(
                ",",
                ("note", "time", "item", "user"),
                [("n, 1".join('""'), t, i, u) for u, i, t in CLICK_ROWS],
            ),
        ),
    ],
)
def test_every_form_of_text_file(own, name, content):
    clicks = own(name, content)
    assert rows_of(clicks) == CLICK_ROWS
    assert clicks.time_unit == "as in the file"
    assert clicks.bad.count == 0


def test_parquet_of_integers_and_of_other_types(own):
    frame = pl.DataFrame({"user": [7, 5], "item": ["a", "b"], "time": [2, 1]})
    assert rows_of(own("x.parquet", as_parquet(frame))) == [("7", "a", 2), ("5", "b", 1)]
    moments = [datetime(1970, 1, 1, 0, 0, 1, 500), datetime(1970, 1, 2)]
    times = [
        (pl.Series(moments), [1_000_500, 86_400_000_000]),
        (
            pl.Series(moments).dt.replace_time_zone("Europe/Paris"),
            [1_000_500 - 3_600_000_000, 82_800_000_000],
        ),
        (pl.Series(moments).cast(pl.Datetime("ms")), [1_000_000, 86_400_000_000]),
        (pl.Series([date(1970, 1, 1), date(1970, 1, 2)]), [0, 86_400_000_000]),
        (pl.Series([1.5, 2.0]), [1_500_000, 2_000_000]),
        (pl.Series([1, 2], dtype=pl.UInt64), [1, 2]),
        (pl.Series(["1", "2"]), [1, 2]),
        (pl.Series(["1970-01-01", "1970-01-02"]), [0, 86_400_000_000]),
    ]
    for series, expected in times:
        clicks = own("x.parquet", as_parquet(frame.with_columns(series.alias("time"))))
        assert clicks.table["time"].to_list() == expected, series
        assert clicks.time_unit == ("as in the file" if expected == [1, 2] else "microseconds")


@pytest.mark.parametrize(
    ("times", "expected", "unit"),
    [
        (
            ["978300760", "-5", "1370000000000000000"],
            [978300760, -5, 1370000000000000000],
            "as in the file",
        ),
        (["978300760.0", "7", "1e3"], [978300760, 7, 1000], "as in the file"),
        (["1.5", "2", "-0.25"], [1_500_000, 2_000_000, -250_000], "microseconds"),
        (["1970-01-01", "1970-01-03"], [0, 2 * 86_400_000_000], "microseconds"),
        (
            ["1970-01-01T00:00:01Z", "1970-01-01T00:00:01.5Z"],
            [1_000_000, 1_500_000],
            "microseconds",
        ),
        (["1970-01-01 00:00:01", "1970-01-01 00:00:02.25"], [1_000_000, 2_250_000], "microseconds"),
        (
            ["1970-01-01T02:00:00+02:00", "1970-01-01T00:00:01-00:30"],
            [0, 1_801_000_000],
            "microseconds",
        ),
        (
            ["1970-01-01", "1970-01-01T00:00:01+00:00", "19700102"],
            [0, 1_000_000, 86_400_000_000],
            "microseconds",
        ),  # mixed
    ],
)
def test_times(own, times, expected, unit):
    content = as_lines(",", ("user", "item", "time"), [("u", "i", time) for time in times])
    clicks = own("x.csv", content)
    assert clicks.table["time"].to_list() == expected
    assert clicks.time_unit == unit


def test_a_fraction_far_down_makes_all_times_seconds(own):
    rows_ = [("u", "i", n) for n in range(3000)] + [("u", "i", 0.5)]
    clicks = own("x.csv", as_lines(",", ("user", "item", "time"), rows_))
    assert clicks.time_unit == "microseconds"
    assert clicks.table["time"].to_list() == [n * 1_000_000 for n in range(3000)] + [500_000]


def test_columns_are_named_or_found(own):
    content = as_lines(
        ",", ("who", "what", "when", "time"), [(u, i, t, 0) for u, i, t in CLICK_ROWS]
    )
    assert (
        rows_of(own("x.csv", content, user_col="who", item_col="WHAT", time_col="when"))
        == CLICK_ROWS
    )
    message = error_of(own, "x.csv", content)
    assert "none of its columns looks like the user; they are who, what, when, time; " in message
    assert "name it with --user_col" in message
    message = error_of(own, "x.csv", content, user_col="who", item_col="waht")
    assert "no column 'waht' (did you mean 'what'?)" in message
    assert "--item_col" in message
    assert "column 'user' occurs 2 times" in error_of(
        own, "x.csv", as_lines(",", ("user", "item", "time", "user"), [])
    )
    assert "looks like the time" in error_of(own, "x.jsonl", as_json(keys=("user", "item", "when")))
    same = error_of(own, "x.csv", content, user_col="who", item_col="who", time_col="when")
    assert "are the columns who, who, when; expected different ones" in same
    assert "looks like the item" in error_of(
        own, "x.parquet", as_parquet(pl.DataFrame({"user": [1], "time": [1]}))
    )


def test_a_key_that_only_later_objects_have_is_found(own):
    content = '{"user": 1, "item": 2}\n' + as_json()
    assert "line 1: no timestamp" in error_of(own, "x.jsonl", content)
    assert rows_of(own("x.jsonl", content, "skip")) == CLICK_ROWS


def test_bad_parquet_rows(own):
    frame = pl.DataFrame(
        {
            "user": ["a", None, "b", ""],
            "item": [1, 2, None, 4],
            "time": [1.0, 2.0, 3.0, float("nan")],
        }
    )
    assert "x.parquet, row 2: user None" in error_of(own, "x.parquet", as_parquet(frame))
    clicks = own("x.parquet", as_parquet(frame), "skip")
    assert rows_of(clicks) == [("a", "1", 1)]
    assert clicks.bad.count == 3
    assert clicks.bad.first[1].startswith("row 3: user 'b', item None")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.csv", b"", "is empty"),
        ("x.parquet", b"", "is empty"),
        ("x.csv", "user,item,time\n", "holds no clicks"),
        ("x.csv", "\nuser,item,time\n", "begins with an empty line"),
        (
            "x.csv",
            as_lines(",", ("user", "item", "time")).encode("utf-16"),
            "line 1: not UTF-8 text",
        ),
        ("x.jsonl", "[]\n", "holds no JSON object"),
        ("x.jsonl", as_json().encode("utf-16"), "holds no JSON object"),
        ("x.parquet", b"PAR1 and then nothing of the kind", "not a readable Parquet file"),
        (
            "x.parquet",
            as_parquet(pl.DataFrame({"user": [[1]], "item": [1], "time": [1]})),
            "column 'user' is of type List",
        ),
        (
            "x.parquet",
            as_parquet(pl.DataFrame({"user": [1], "item": [1], "time": [True]})),
            "column 'time' is of type Boolean",
        ),
        (
            "x.csv.gz",
            gzip.compress(b"user,item,time\n" + b"u,i,1\n" * 20_000, mtime=0)[:-40],
            "damaged or truncated",
        ),
        (
            "x.json.gz",
            gzip.compress(as_json(CLICK_ROWS * 9000).encode(), mtime=0)[:-9],
            "damaged or truncated",
        ),
        (
            "x.json.gz",
            gzip.compress(as_json(CLICK_ROWS * 9000).encode(), mtime=0)[:-6] + b"\0" * 6,
            "damaged or truncated",
        ),
    ],
)
@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_files_that_cannot_be_used(own, name, content, problem, on_bad_rows):
    assert problem in error_of(own, name, content, on_bad_rows)


def test_an_unreadable_file_is_reported(tmp_path, folder):
    missing = sources.Layout(kind="csv")
    assert "no file" in error_of(readers.read, tmp_path / "none.csv", missing, "error", folder)


def test_times_are_utc_where_no_zone_is_named(own):
    clicks = own("x.csv", "user,item,time\nu,i,2013-06-02 10:00:00\n")
    assert clicks.table["time"].to_list() == [
        int(datetime(2013, 6, 2, 10, tzinfo=UTC).timestamp() * 1e6)
    ]
