"""Bad rows are named by line or skipped; the slow reader equals the fast one."""

import csv
import gzip
import io
import json

import pytest
from helpers import CLICK_ROWS, as_json, as_lines, error_of, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import forms, inputs, readers, rows, sources, times

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
        ("u1,a,5,soon\n", 4, "timestamp 'soon', expected a unix time or a date-time"),
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
    message = error_of(own, "x.csv", content)
    assert f"x.csv, line {line}: {problem}" in message
    assert "--on_bad_rows=skip" in message
    clicks = own("x.csv", content, "skip")
    kept = [row for row in rows_of(clicks) if row[1] != "x\ny"]
    assert kept == good[0] + good[1]
    assert clicks.bad.count == 1
    assert clicks.bad.first[0].startswith(f"line {line}: {problem}")


def clicks_in(clicks, title):
    return [(user, item, time, title) for user, item, time in clicks]


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
    titled = clicks_in(MANY, "song")
    titled[100] = (*MANY[100], opening)
    if closing:
        titled[110] = (*MANY[110], closing)
    content = as_lines("\t" if name == "x.tsv" else ",", TITLED, titled).encode()
    content = gzip.compress(content) if name == "x.csv.gz" else content
    message = error_of(own, name, content)
    assert f"{name}, line 102: not CSV (a quote that opens a field of this row {problem}" in message
    assert "expected one at the field's end too" in message
    assert "--on_bad_rows=skip" in message
    clicks = own(name, content, "skip")
    assert rows_of(clicks) == MANY[:100] + MANY[101:]
    assert clicks.bad.count == 1


@pytest.mark.parametrize("position", range(4))  # of the title among the columns
def test_an_open_quote_in_any_column(own, position):
    def moved(row):
        return (*row[:position], row[3], *row[position:3])

    titled = [moved(row) for row in clicks_in(MANY, "song")]
    titled[100] = moved((*MANY[100], '"song'))
    titled[101] = moved((*MANY[101], '7"'))
    content = as_lines(",", moved(TITLED), titled)
    assert "x.csv, line 102: not CSV (a quote" in error_of(own, "x.csv", content)
    clicks = own("x.csv", content, "skip")
    assert rows_of(clicks) == MANY[:100] + MANY[101:]
    assert clicks.bad.count == 1


def test_an_open_quote_in_the_last_row_is_reported(own):
    content = as_lines(",", TITLED, [*clicks_in(CLICK_ROWS, "song"), ("u3", "d", 40, '"song')])
    message = error_of(own, "x.csv", content)
    assert "line 5: not CSV (a quote that opens a field of this row is never closed" in message
    assert rows_of(own("x.csv", content, "skip")) == CLICK_ROWS


@pytest.mark.parametrize("position", range(4))
def test_fields_of_several_lines_are_read_at_once_unless_they_are_very_long(own, caplog, position):
    caplog.set_level("INFO")

    def table(title):
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\r\n")
        for row in [TITLED, *clicks_in(CLICK_ROWS, title), *clicks_in(CLICK_ROWS, "song")]:
            writer.writerow((*row[:position], row[3], *row[position:3]))
        return buffer.getvalue()

    for title in ("of two\nlines", 'with, "quotes"\n\nand "a, gap"\n', "line\n" * 99):
        assert rows_of(own("x.csv", table(title))) == CLICK_ROWS * 2
        assert rows_of(own("x.csv", table(title) + "u,i\r\n", "skip")) == CLICK_ROWS * 2
    assert caplog.text.count("reading it row by row") == 3  # where a row is bad
    message = error_of(own, "x.csv", table("line\n" * 100))
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
    assert f"x.jsonl, line 4: {problem}" in error_of(own, "x.jsonl", content)
    clicks = own("x.jsonl", content, "skip")
    assert rows_of(clicks) == CLICK_ROWS * 2
    assert clicks.bad.count == 1


def test_skipped_rows_are_counted_and_the_first_few_reported(own, caplog):
    content = HEADER + "u,i,5,1\n" + "u,i\n" * 7
    clicks = own("x.csv", content, "skip")
    assert clicks.bad.count == 7
    assert clicks.bad.first == [f"line {n}: 2 fields, expected 4" for n in (3, 4, 5)]
    assert "skipped 7 bad rows: line 3: 2 fields" in caplog.text


def test_a_file_of_bad_rows_alone_is_an_error_that_shows_one(own):
    message = error_of(own, "x.csv", HEADER + "u,i\n", "skip")
    assert "holds no clicks; 1 bad rows were skipped, such as line 2: 2 fields" in message


IDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
GOOD = st.lists(st.tuples(IDS, IDS, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20)


@given(GOOD, st.sampled_from(["csv", "json"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_fast_reader_equals_its_slow_twin(tmp_path, good, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("user", "item", "time"), *good])
    else:
        path.write_text(as_json(good), encoding="utf-8")
    layout = sources.Layout(kind=kind)
    form = forms.text_form(inputs.Part(path, "x.csv", layout, {}, 0)).form
    scan = readers.scan_text(path, form, times.TimeForm("integer"), rows.Condition())
    fast = scan.collect().rows()
    slow = [(r.values[0], r.values[1], int(r.values[2])) for r in rows.text_rows(path, form)]
    assert fast == slow == good


def test_json_numbers_as_ids_are_written_alike_in_both_readers(own):
    ids = [1, 1.0, 2.5, 1e3, True, 12345678901234567890]
    lines = "".join(json.dumps({"user": value, "item": "i", "time": 5}) + "\n" for value in ids)
    assert rows_of(own("x.jsonl", lines)) == rows_of(own("x.jsonl", lines + "{}\n", "skip"))
