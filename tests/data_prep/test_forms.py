"""Files in the forms that people have: each is read with the same clicks, or with those it holds.

The small files are made here; the same forms as files of others are in test_cases.py.
"""

import bz2
import gzip
import json
import lzma
import zipfile
from datetime import UTC, datetime

import polars as pl
import pytest
from helpers import as_parquet, error_of, rows_of

START = 1_600_000_000
CLICKS = [(f"{u}", f"{i}", START + 1000 * u + 60 * i) for u in (3, 1, 2) for i in (5, 8, 7)]
CSV = "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in CLICKS)
TAB = CSV.replace(",", "\t")
BODY = TAB.split("\n", 1)[1]


def dates(form):
    """Return a CSV file with dates of this form."""
    return "user,item,time\n" + "".join(
        f"{u},{i},{datetime.fromtimestamp(t, UTC).strftime(form)}\n" for u, i, t in CLICKS
    )


def objects(**more):
    return [{"user": u, "item": i, "timestamp": t, **more} for u, i, t in CLICKS]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("x.csv", CSV.replace(",", ";"), {}),
        ("x.csv", CSV.replace(",", "|"), {}),
        ("x.csv", TAB, {}),
        ("x.tsv", CSV, {}),
        ("x.txt", CSV.replace(",", " "), {}),
        ("x.dat", CSV.replace(",", "::"), {}),
        ("x.csv", CSV.replace(",", "~"), {"separator": "~"}),
        ("x.csv", "# exported\n#\n" + CSV, {}),
        ("x.csv", "% one\n" + CSV.replace("\n1", "\n% two\n1"), {"comment_prefix": "%"}),
        ("x.data", BODY, {"columns": "user,item,time"}),
        ("x.tsv.gz", gzip.compress(BODY.encode(), mtime=0), {"columns": "user,item,time"}),
        ("x.csv.bz2", bz2.compress(CSV.encode()), {}),
        ("x.csv.xz", lzma.compress(CSV.encode()), {}),
        ("x.ndjson", "\n".join(map(json.dumps, objects())), {}),
        ("x.json", json.dumps(objects()), {}),
        ("x.json", json.dumps(objects(), indent=1), {}),
        ("x.json.gz", gzip.compress(json.dumps(objects()).encode(), mtime=0), {}),
        ("x.json", "\n".join(map(str, objects(verified=True, title='a "b"'))), {}),
        ("x.csv", CSV.replace("timestamp", "date,time_ms").replace(",16", ",2020-01-01,16"), {}),
        (
            "x.csv",
            CSV.replace("user,item,timestamp", "who,2020,when"),
            {"user_col": "who", "item_col": "2020", "time_col": "when"},
        ),
        ("x.csv", CSV + '9,"song,1\n', {"on_bad_rows": "skip"}),
    ],
)
def test_every_form_holds_the_same_clicks(own, name, content, options):
    options = dict(options)
    on_bad_rows = options.pop("on_bad_rows", "error")
    clicks = own(name, content, on_bad_rows, **options)
    assert rows_of(clicks) == CLICKS
    assert clicks.time_unit == "as in the file"


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("%Y-%m-%d %H:%M:%S UTC", {}),
        ("%Y/%m/%d %H:%M:%S", {}),
        ("%Y-%m-%dT%H:%M:%SZ", {}),
        ("%a %b %d %H:%M:%S +0000 %Y", {}),
        ("%d.%m.%Y %H:%M:%S", {"time_format": "%d.%m.%Y %H:%M:%S"}),
    ],
)
def test_dates_of_many_forms_are_read_alike_fast_and_slowly(own, form, options):
    expected = [(u, i, t * 1_000_000) for u, i, t in CLICKS]
    assert rows_of(own("x.csv", dates(form), **options)) == expected
    slow = own("y.csv", dates(form) + "9,9,soon\n", "skip", **options)
    assert rows_of(slow) == expected
    assert slow.bad.count == 1


def test_date_and_time_may_be_apart(own):
    content = dates("%Y-%m-%d,%H:%M:%S").replace("time", "Date,Time")
    expected = [(u, i, t * 1_000_000) for u, i, t in CLICKS]
    assert rows_of(own("x.csv", content)) == expected
    assert rows_of(own("y.csv", content + "9,9,,\n", "skip", time_col="date,time")) == expected


@pytest.mark.parametrize(
    ("factor", "unit", "stored"),
    [
        (10**3, "microseconds", 10**6),
        (10**6, "microseconds", 10**6),
        (10**9, "nanoseconds", 10**9),
    ],
)
def test_fractions_of_any_unit(own, factor, unit, stored):
    content = "user,item,time\n" + "".join(f"{u},{i},{t * factor}.25\n" for u, i, t in CLICKS)
    clicks = own("x.csv", content)
    assert clicks.time_unit == unit
    assert clicks.table["time"].to_list() == pytest.approx(
        [t * stored for *_, t in CLICKS], abs=999
    )


def test_whole_floats_decimals_and_texts_are_whole_numbers(own):
    whole = [t * 1_000_000_000 for *_, t in CLICKS]
    frame = pl.DataFrame({"user": [u for u, *_ in CLICKS], "item": [i for _, i, _ in CLICKS]})
    for times in (
        pl.Series(whole, dtype=pl.Float64),
        pl.Series(whole).cast(pl.Decimal(30, 2)),
        pl.Series([f"{t}.0" for t in whole]),
    ):
        clicks = own("x.parquet", as_parquet(frame.with_columns(timestamp=times)))
        assert clicks.table["time"].to_list() == whole
        assert clicks.time_unit == "as in the file"


def test_ids_as_floats(own):
    frame = pl.DataFrame({"user": [7.0, None, 2.5], "item": [1e18, 1.0, 2.0], "time": [1, 2, 3]})
    clicks = own("x.parquet", as_parquet(frame), "skip")
    assert rows_of(clicks) == [("7", "10" + "0" * 17, 1), ("2.5", "2", 3)]
    assert clicks.bad.count == 1
    (notice,) = clicks.notices
    assert notice.startswith("the ids in column item are floating-point numbers of more than 15")


def test_an_error_about_a_time_shows_the_value(own):
    frame = pl.DataFrame({"user": ["a", "b"], "item": [1, 2], "time": ["2020-01-01", "soon"]})
    assert "row 2: user 'b', item '2', time 'soon'" in error_of(own, "x.parquet", as_parquet(frame))


def test_rows_in_order_without_times(own):
    pairs = "".join(f"{u} {i}\n" for u, i, _ in CLICKS)
    expected = [(u, i, 0) for u, i, _ in CLICKS]
    clicks = own("x.txt", pairs, columns="user,item")
    assert rows_of(clicks) == expected
    assert clicks.time_unit.startswith("none")
    assert rows_of(own("x.csv", CSV, time_col="none")) == expected
    lines = "".join(f"{u} 5 8 7\n" for u in (3, 1, 2))
    assert rows_of(own("y.txt", lines, layout="sequences")) == expected
    assert "line 4: a user without items" in error_of(
        own, "y.txt", lines + "9\n", layout="sequences"
    )
    assert rows_of(own("y.txt", lines + "9\n", "skip", layout="sequences")) == expected


def test_the_finest_time_and_the_parent_item_are_read_and_said(own):
    content = "".join(
        json.dumps({"user_id": u, "asin": "V", "parent_asin": i, "date": "2020-01-01", "ts": t})
        + "\n"
        for u, i, t in CLICKS
    )
    clicks = own("x.jsonl", content)
    assert rows_of(clicks) == CLICKS
    assert clicks.facts["columns"] == {"user": "user_id", "item": "parent_asin", "time": ["ts"]}
    assert [notice.split(";")[0] for notice in clicks.notices] == [
        "the item is read from parent_asin, not from asin",
        "the time is read from ts, not from date",
    ]


@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_only_rows_that_meet_the_condition_are_read(own, on_bad_rows):
    lines = [f"{u},{i},{t},{'buy' if i == '8' else 'view'},{i}" for u, i, t in CLICKS]
    content = "\n".join(["user,item,time,event,rating", *lines, "x,,,view,"]) + "\n"
    content += "u,8,1,buy,5,6\n" if on_bad_rows == "skip" else ""
    where = "event = 'buy' AND rating >= 4"
    clicks = own("x.csv", content, on_bad_rows, where=where)
    assert rows_of(clicks) == [click for click in CLICKS if click[1] == "8"]
    assert clicks.excluded == 7
    assert clicks.bad.count == (on_bad_rows == "skip")
    frame = pl.read_csv("\n".join(content.split("\n")[:10]).encode())
    table = own("x.parquet", as_parquet(frame), where=where)
    assert (rows_of(table), table.excluded) == (rows_of(clicks), 6)
    array = own("x.json", json.dumps(frame.to_dicts()), where=where)
    assert (rows_of(array), array.excluded) == (rows_of(clicks), 6)


def test_a_condition_that_does_not_fit_the_columns(own):
    message = error_of(own, "x.csv", CSV, where="events = 'buy'")
    assert "has no column 'events'; its columns are user, item, timestamp" in message
    frame = pl.DataFrame({"user": [1], "item": [2], "time": [3]})
    assert "--where=" in error_of(own, "x.parquet", as_parquet(frame), where="time = 'x'")


def test_folders_patterns_and_partitions_are_one_table(own, tmp_path):
    for number, (u, i, t) in enumerate(CLICKS):
        for kind in ("csv", "parquet"):
            place = tmp_path / kind / f"day={number}"
            place.mkdir(parents=True)
            frame = pl.DataFrame({"user": [u], "item": [i], "time": [t]})
            if kind == "csv":
                frame.write_csv(place / "x.csv")
            else:
                frame.write_parquet(place / "x.parquet")
    (tmp_path / "csv" / "_SUCCESS").write_text("")
    for kind in ("csv", "parquet"):
        assert rows_of(own.read(tmp_path / kind)) == CLICKS
        assert rows_of(own.read(tmp_path / kind / f"*/*.{kind}")) == CLICKS
        some = own.read(tmp_path / kind, where="day >= 2 AND day < 4")
        assert rows_of(some) == CLICKS[2:4]
        by_day = own.read(tmp_path / kind, time_col="day")
        assert by_day.table["time"].to_list() == list(range(9))
    (tmp_path / "csv" / "y.tsv").write_text(TAB)
    message = error_of(own.read, tmp_path / "csv")
    assert "files of several kinds (.csv, .tsv); name those to be read with a pattern" in message


def test_a_zip_file_of_several_members_asks_which(own, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/clicks.csv", CSV)
    assert rows_of(own.read(path)) == CLICKS
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("readme.txt", "words")
    message = error_of(own.read, path)
    assert "holds 2 files (a/clicks.csv, readme.txt); name the one to read with --member" in message
    assert rows_of(own.read(path, member="a/clicks.csv")) == CLICKS


@pytest.mark.parametrize(
    ("name", "content", "options", "parts"),
    [
        ("x.data", BODY, {}, ("first line '3\\t5\\t", "separator tab", "--columns=user,item,_")),
        ("x.tsv", BODY, {"user_col": "3", "item_col": "5"}, ("no header", "--columns")),
        ("x.csv", BODY, {"columns": "user,item"}, ("names 2 columns, but ", "has 3")),
        ("x.csv", CSV, {"columns": "user,item,time"}, ("has a header",)),
        ("x.csv", "one\ntwo\n", {}, ("first line 'one', separator none", "--separator")),
        ("x.csv", "a;b\n1;2\n", {}, ("separator ;", "they are a, b; name it with --user_col")),
        ("x.txt", "1 2 3\n", {}, ("--layout=sequences",)),
        ("x.csv", "user,item\n1,2\n", {}, ("--time_col=none if the rows are in order",)),
        ("x.csv", CSV, {"time_format": "%Q"}, ("--time_format",)),
    ],
)
def test_an_error_says_what_was_found_and_which_flag_helps(own, name, content, options, parts):
    message = error_of(own, name, content, **options)
    for part in parts:
        assert part in message, message
