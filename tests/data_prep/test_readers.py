"""Every form of file, the fast reader against its slow twin, and what is said of a bad file."""

import csv
import gzip
import io
import json
import zipfile
from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import archives, forms, readers, rows, sources
from data_prep.settings import DataConfig, UserError

ROWS = [("u1", "a", 30), ("u2", "b", 10), ("u1", "c", 20)]
MOVIES = sources.CATALOGUE["ml1m"]
BEAUTY = sources.CATALOGUE["beauty"]


@pytest.fixture
def folder(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


@pytest.fixture
def own(tmp_path, folder):
    """own(name, content, **settings): the clicks of a file with that content, as a user's own."""

    def read(name, content, on_bad_rows="error", **columns):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        source = sources.find(DataConfig(dataset=str(path), **columns))
        return readers.read(path, source.layout, on_bad_rows, folder)

    return read


def text(clicks):
    return clicks.table.with_columns(pl.col("user", "item").cast(pl.String)).rows()


def fails(read, *args, **kwargs):
    """The message of the UserError that a call must raise; one line."""
    with pytest.raises(UserError) as caught:
        read(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_lines(separator, header, rows_=ROWS):
    return "".join(separator.join(map(str, row)) + "\n" for row in [header, *rows_])


def as_json(rows_=ROWS, keys=("user", "item", "time")):
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows_)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", as_lines(",", ("user", "item", "time"))),
        ("x.CSV", as_lines(",", ("User ID", "ITEM-ID", "Timestamp"))),
        ("x.tsv", as_lines("\t", ("session_id", "product_id", "created_at"))),
        ("x.inter", as_lines("\t", ("user_id:token", "item_id:token", "timestamp:float"))),
        ("x.jsonl", as_json(keys=("reviewerID", "asin", "unixReviewTime"))),
        ("x.csv.gz", gzip.compress(as_lines(",", ("uid", "movieId", "ts")).encode())),
        ("x.json.gz", gzip.compress(as_json().encode())),
        ("odd[1]*.csv", as_lines(",", ("user", "item", "time"))),  # no pattern
        ("odd[1]*.jsonl", as_json()),
        ("x.csv", "\ufeff" + as_lines(",", ("user", "item", "time"))),
        ("x.csv", as_lines(",", ("user", "item", "time")).replace("\n", "\r\n")),
        ("x.csv", as_lines(",", ("user", "item", "time"))[:-1]),
        ("x.csv", as_lines(",", ("user", "item", "time")) + "\n\n"),  # blank lines are no rows
        ("x.jsonl", as_json() + "\n\n"),
        (
            "x.csv",
            as_lines(
                ",",
                ("note", "time", "item", "user"),
                [("n, 1".join('""'), t, i, u) for u, i, t in ROWS],
            ),
        ),
    ],
)
def test_every_form_of_text_file(own, name, content):
    clicks = own(name, content)
    assert text(clicks) == ROWS
    assert clicks.time_unit == "as in the file"
    assert clicks.bad.count == 0


def parquet(frame):
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_parquet_of_integers_and_of_other_types(own):
    frame = pl.DataFrame({"user": [7, 5], "item": ["a", "b"], "time": [2, 1]})
    assert text(own("x.parquet", parquet(frame))) == [("7", "a", 2), ("5", "b", 1)]
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
        clicks = own("x.parquet", parquet(frame.with_columns(series.alias("time"))))
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
    content = as_lines(",", ("who", "what", "when", "time"), [(u, i, t, 0) for u, i, t in ROWS])
    assert text(own("x.csv", content, user_col="who", item_col="WHAT", time_col="when")) == ROWS
    assert (
        "none of its columns looks like the user; they are who, what, when, time; name it with --user_col"
        in fails(own, "x.csv", content)
    )
    message = fails(own, "x.csv", content, user_col="who", item_col="waht")
    assert "no column 'waht' (did you mean 'what'?)" in message
    assert "--item_col" in message
    assert "column 'user' occurs 2 times" in fails(
        own, "x.csv", as_lines(",", ("user", "item", "time", "user"), [])
    )
    assert "looks like the time" in fails(own, "x.jsonl", as_json(keys=("user", "item", "when")))
    same = fails(own, "x.csv", content, user_col="who", item_col="who", time_col="when")
    assert "are the columns who, who, when; expected three different ones" in same
    assert "looks like the item" in fails(
        own, "x.parquet", parquet(pl.DataFrame({"user": [1], "time": [1]}))
    )


def test_a_key_that_only_later_objects_have_is_found(own):
    content = '{"user": 1, "item": 2}\n' + as_json()
    assert "line 1: no timestamp" in fails(own, "x.jsonl", content)
    assert text(own("x.jsonl", content, "skip")) == ROWS


HEADER = "user,item,rating,time\n"


@pytest.mark.parametrize(
    ("bad", "line", "problem"),
    [
        ("u1,a\n", 4, "2 fields, expected 4"),
        ("u1,a,5,1,9\n", 4, "5 fields, expected 4"),
        (",a,5,1\n", 4, "no user"),
        ("u1,,5,1\n", 4, "no item"),
        ('u1,"",5,1\n', 4, "no item"),
        ("u1,a,5,\n", 4, "no timestamp"),
        ("u1,a,5,soon\n", 4, "timestamp 'soon', expected a unix time or an ISO 8601 date-time"),
        ("u1,a,5,nan\n", 4, "timestamp 'nan'"),
        ("u1,a,5,1_0\n", 4, "timestamp '1_0'"),
        (f"u1,a,5,{2**63}\n", 4, "timestamp '9223372036854775808'"),
        ("u1,a,5,2013-06-02\n", 4, "timestamp '2013-06-02'"),
        ("u1,caf\u00e9,5,1\n".encode("latin-1"), 4, "not UTF-8 text"),
        ('u1,"x\ny",5,1\nu1,a\n', 6, "2 fields, expected 4"),  # lines are counted, not rows
        ("\n\nu1,a\n", 6, "2 fields, expected 4"),
    ],
)
def test_bad_csv_rows_are_named_by_line_or_skipped_and_counted(own, bad, line, problem):
    good = [("u1", "a", 1), ("u1", "b", 2)], [("u2", "c", 3)]
    bad = bad if isinstance(bad, bytes) else bad.encode()
    before, after = (
        as_lines(",", "", [(u, i, 5, t) for u, i, t in part])[1:].encode() for part in good
    )
    content = HEADER.encode() + before + bad + after
    message = fails(own, "x.csv", content)
    assert f"x.csv, line {line}: {problem}" in message
    assert "--on_bad_rows=skip" in message
    clicks = own("x.csv", content, "skip")
    kept = [row for row in text(clicks) if row[1] != "x\ny"]
    assert kept == good[0] + good[1]
    assert clicks.bad.count == 1
    assert clicks.bad.first[0].startswith(f"line {line}: {problem}")


def clicks_in(rows_, title):
    return [(user, item, time, title) for user, item, time in rows_]


MANY = [(f"u{n}", f"i{n}", n) for n in range(250)]
TITLED = ("user", "item", "time", "title")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz"])
@pytest.mark.parametrize(
    ("opening", "closing", "problem"),
    [
        ('"song', None, "is not closed within 100 lines"),
        ('"song', '"Heroes" (live)', "swallows the lines after it"),
        ('"song', '7"', "swallows the lines after it"),
    ],
)
def test_an_open_quote_costs_its_own_line_alone(own, name, opening, closing, problem):
    rows_ = clicks_in(MANY, "song")
    rows_[100] = (*MANY[100], opening)
    if closing:
        rows_[110] = (*MANY[110], closing)
    content = as_lines("\t" if name == "x.tsv" else ",", TITLED, rows_).encode()
    content = gzip.compress(content) if name == "x.csv.gz" else content
    message = fails(own, name, content)
    assert f"{name}, line 102: not CSV (a quote that opens a field of this row {problem}" in message
    assert "expected one at the field's end too" in message
    assert "--on_bad_rows=skip" in message
    clicks = own(name, content, "skip")
    assert text(clicks) == MANY[:100] + MANY[101:]
    assert clicks.bad.count == 1


@pytest.mark.parametrize("place", range(4))  # of the title among the columns
def test_an_open_quote_in_any_column(own, place):
    def moved(row):
        return (*row[:place], row[3], *row[place:3])

    rows_ = [moved(row) for row in clicks_in(MANY, "song")]
    rows_[100] = moved((*MANY[100], '"song'))
    rows_[101] = moved((*MANY[101], '7"'))
    content = as_lines(",", moved(TITLED), rows_)
    assert "x.csv, line 102: not CSV (a quote" in fails(own, "x.csv", content)
    clicks = own("x.csv", content, "skip")
    assert text(clicks) == MANY[:100] + MANY[101:]
    assert clicks.bad.count == 1


def test_an_open_quote_in_the_last_row_is_told(own):
    content = as_lines(",", TITLED, [*clicks_in(ROWS, "song"), ("u3", "d", 40, '"song')])
    message = fails(own, "x.csv", content)
    assert "line 5: not CSV (a quote that opens a field of this row is never closed" in message
    assert text(own("x.csv", content, "skip")) == ROWS


@pytest.mark.parametrize("place", range(4))
def test_fields_of_several_lines_are_read_at_once_unless_they_are_very_long(own, caplog, place):
    caplog.set_level("INFO")

    def table(title):
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\r\n")
        for row in [TITLED, *clicks_in(ROWS, title), *clicks_in(ROWS, "song")]:
            writer.writerow((*row[:place], row[3], *row[place:3]))
        return buffer.getvalue()

    for title in ("of two\nlines", 'with, "quotes"\n\nand "a, gap"\n', "line\n" * 99):
        assert text(own("x.csv", table(title))) == ROWS * 2
        assert text(own("x.csv", table(title) + "u,i\r\n", "skip")) == ROWS * 2
    assert caplog.text.count("reading it row by row") == 3  # where a row is bad
    message = fails(own, "x.csv", table("line\n" * 100))
    assert "line 2: not CSV (a quote that opens a field of this row is not closed within" in message


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ('{"user": "u1", "item"\n', "not JSON (Expecting ':' delimiter"),
        ("[1, 2]\n", "a list, expected a JSON object"),
        ('{"user": "u1", "item": "a"}\n', "no timestamp"),
        ('{"user": "u1", "item": null, "time": 5}\n', "no item"),
        ('{"user": "", "item": "a", "time": 5}\n', "no user"),
        ('{"user": "u1", "item": "a", "time": true}\n', "timestamp 'true'"),
        ('{"user": "caf\u00e9", "item": "a", "time": 5}\n'.encode("latin-1"), "not UTF-8 text"),
    ],
)
def test_bad_json_lines(own, bad, problem):
    bad = bad if isinstance(bad, bytes) else bad.encode()
    content = as_json().encode() + bad + as_json().encode()
    assert f"x.jsonl, line 4: {problem}" in fails(own, "x.jsonl", content)
    clicks = own("x.jsonl", content, "skip")
    assert text(clicks) == ROWS * 2
    assert clicks.bad.count == 1


def test_bad_parquet_rows(own):
    frame = pl.DataFrame(
        {
            "user": ["a", None, "b", ""],
            "item": [1, 2, None, 4],
            "time": [1.0, 2.0, 3.0, float("nan")],
        }
    )
    assert "x.parquet, row 2: user None" in fails(own, "x.parquet", parquet(frame))
    clicks = own("x.parquet", parquet(frame), "skip")
    assert text(clicks) == [("a", "1", 1_000_000)]
    assert clicks.bad.count == 3
    assert clicks.bad.first[1].startswith("row 3: user 'b', item None")


def test_skipping_tells_how_many_and_the_first_few(own, caplog):
    content = HEADER + "u,i,5,1\n" + "u,i\n" * 7
    clicks = own("x.csv", content, "skip")
    assert clicks.bad.count == 7
    assert clicks.bad.first == [f"line {n}: 2 fields, expected 4" for n in (3, 4, 5)]
    assert "skipped 7 bad rows: line 3: 2 fields" in caplog.text


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
            parquet(pl.DataFrame({"user": [[1]], "item": [1], "time": [1]})),
            "column 'user' is of type List",
        ),
        (
            "x.parquet",
            parquet(pl.DataFrame({"user": [1], "item": [1], "time": [True]})),
            "column 'time' is of type Boolean",
        ),
        (
            "x.csv.gz",
            gzip.compress(b"user,item,time\n" + b"u,i,1\n" * 20_000)[:-40],
            "damaged or cut short",
        ),
        ("x.json.gz", gzip.compress(as_json(ROWS * 9000).encode())[:-9], "damaged or cut short"),
        (
            "x.json.gz",
            gzip.compress(as_json(ROWS * 9000).encode())[:-6] + b"\0" * 6,
            "damaged or cut short",
        ),
    ],
)
@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_files_that_cannot_be_used(own, name, content, problem, on_bad_rows):
    assert problem in fails(own, name, content, on_bad_rows)


def test_a_file_of_bad_rows_alone_is_an_error_that_shows_one(own):
    message = fails(own, "x.csv", HEADER + "u,i\n", "skip")
    assert "holds no clicks; 1 bad rows were skipped, such as line 2: 2 fields" in message


def archive(
    path, content, member=MOVIES.layout.member, movies=b"1::Caf\xe9: the film::Drama\n2::B::x::y\n"
):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(member, content)
        file.writestr("ml-1m/movies.dat", movies)
    return path


RATINGS = "1::10::5::100\n1::20::3::50\n2::10::1::100\n"


def test_movielens_archive(tmp_path, folder):
    path = archive(tmp_path / "ml-1m.zip", RATINGS)
    clicks = readers.read(path, MOVIES.layout, "error", folder)
    assert text(clicks) == [("1", "10", 100), ("1", "20", 50), ("2", "10", 100)]
    assert readers.read_titles(path, MOVIES.titles).sort("id").rows() == [
        ("1", "Caf\u00e9: the film"),
        ("2", "B"),
    ]


@pytest.mark.parametrize(
    "bad",
    ["1:10:5:100", "1::10::5", "1::10::5::100::7", "1::10::5:100", "1:x:10::5::100", "::10::5::9"],
)
def test_bad_movielens_rows(tmp_path, folder, bad):
    path = archive(tmp_path / "ml-1m.zip", RATINGS + bad + "\n" + RATINGS)
    assert "ml-1m.zip: ml-1m/ratings.dat, line 4: " in fails(
        readers.read, path, MOVIES.layout, "error", folder
    )
    assert len(readers.read(path, MOVIES.layout, "skip", folder).table) == 6


def test_movielens_100k(tmp_path, folder):
    source = sources.CATALOGUE["ml100k"]
    path = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ml-100k/u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
        file.writestr(
            "ml-100k/u.item",
            b"242|Kolya (1996)|24-Jan-1997||x|0\n302|L.A. Confidential (1997)|x||x|0\n",
        )
    assert text(readers.read(path, source.layout, "error", folder)) == [
        ("196", "242", 881250949),
        ("186", "302", 891717742),
    ]
    assert ("302", "L.A. Confidential (1997)") in readers.read_titles(path, source.titles).rows()


def test_amazon_in_both_forms(tmp_path, folder):
    lines = [
        {
            "reviewerID": "A",
            "asin": "B",
            "helpful": [0, 1],
            "reviewText": "a\nb",
            "unixReviewTime": 5,
            "style": {"x": "y"},
        }
    ]
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert text(readers.read(path, BEAUTY.layout, "error", folder)) == [("A", "B", 5)]
    path = tmp_path / "ratings.csv"
    path.write_text("A,B,5.0,7\nC,D,1.0,8\n")
    assert text(readers.read(path, BEAUTY.other_layout, "error", folder)) == [
        ("A", "B", 7),
        ("C", "D", 8),
    ]


def test_damaged_archives(tmp_path, folder):
    path = archive(tmp_path / "ml-1m.zip", RATINGS * 500)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in fails(readers.read, path, MOVIES.layout, "error", folder)
    start = 30 + len(MOVIES.layout.member) + 20
    path.write_bytes(whole[:start] + bytes(20) + whole[start + 20 :])
    assert "damaged or cut short" in fails(readers.read, path, MOVIES.layout, "error", folder)
    archive(path, RATINGS, "ml-1m/rating.dat")
    message = fails(readers.read, path, MOVIES.layout, "error", folder)
    assert "has no member 'ml-1m/ratings.dat' (did you mean 'ml-1m/rating.dat'?)" in message
    path.write_bytes(b"")
    assert "is empty" in fails(readers.read, path, MOVIES.layout, "error", folder)


def test_zip_bombs_are_refused_and_nothing_leaves_the_folder(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(archives, "SMALL_BYTES", 1000)
    path = archive(tmp_path / "ml-1m.zip", "1::1::1::1\n" * 100_000)
    assert "zip bomb" in fails(readers.read, path, MOVIES.layout, "error", folder)
    assert not list(folder.iterdir())
    target = archives.spool(archive(tmp_path / "x.zip", "x", "../../evil"), "../../evil", folder)
    assert target.parent == folder


def test_gzip_bombs_are_refused(own, monkeypatch):
    bomb = gzip.compress(b"user,item,time\n1,2," + b"0" * 1_000_000 + b"\n")
    monkeypatch.setattr(archives, "SMALL_BYTES", 100_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 50)
    assert "it looks like a gzip bomb" in fails(own, "x.csv.gz", bomb)
    lines = as_lines(
        ",", ("user", "item", "time"), [(u, i, u * i) for u in range(200) for i in range(200)]
    )
    assert len(text(own("y.csv.gz", gzip.compress(lines.encode())))) == 40_000


IDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
GOOD = st.lists(st.tuples(IDS, IDS, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20)


@given(GOOD, st.sampled_from(["csv", "json"]))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_fast_reader_equals_its_slow_twin(tmp_path, good, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("user", "item", "time"), *good])
    else:
        path.write_text(as_json(good), encoding="utf-8")
    layout = sources.Layout(kind=kind)
    form = forms.text_form(path, layout, "x")
    fast = readers.scan_text(path, form, "integer", []).collect().rows()
    slow = [(r.values[0], r.values[1], int(r.values[2])) for r in rows.text_rows(path, form)]
    assert fast == slow == good


def test_an_unreadable_file_is_told(tmp_path, folder):
    missing = sources.Layout(kind="csv")
    assert "cannot be read (No such file" in fails(
        readers.read, tmp_path / "none.csv", missing, "error", folder
    )


def test_json_numbers_as_ids_are_written_alike_in_both_readers(own):
    ids = [1, 1.0, 2.5, 1e3, True, 12345678901234567890]
    lines = "".join(json.dumps({"user": value, "item": "i", "time": 5}) + "\n" for value in ids)
    assert text(own("x.jsonl", lines)) == text(own("x.jsonl", lines + "{}\n", "skip"))


def test_times_are_utc_where_no_zone_is_named(own):
    clicks = own("x.csv", "user,item,time\nu,i,2013-06-02 10:00:00\n")
    assert clicks.table["time"].to_list() == [
        int(datetime(2013, 6, 2, 10, tzinfo=UTC).timestamp() * 1e6)
    ]
