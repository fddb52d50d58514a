"""Every data set of the catalogue is read from a small file in its exact form."""

import collections
import dataclasses
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from exact_forms import FORMS, OTHER_FORMS, TITLES, clicks
from helpers import error_of, rows_of

import ttt4rec_jax as t4r
from data_prep import readers, times
from data_prep.catalogue import CATALOGUE, table
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax.cli import main

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
    assert manifest["where"] == source.layout.where
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


def test_every_entry_says_what_a_user_has_to_know():
    for source in CATALOGUE.values():
        assert source.licence and source.citation and source.title, source.name
        if source.name == "synthetic":
            continue
        assert source.file and source.page.startswith("http") and source.filters, source.name
        assert bool(source.url) != bool(source.by_hand), source.name
        assert source.url.rpartition("/")[2] in ("", source.file.rpartition("/")[2])
        assert not source.md5 or (source.url and len(bytes.fromhex(source.md5)) == 16)
        assert bool(source.family) == bool(source.group), source.name
    assert len({source.file for source in CATALOGUE.values()}) > 100


def test_the_page_has_the_catalogue():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert table.markdown() in page, f"put this into docs/data.md:\n{table.markdown()}"


def test_the_list_in_a_terminal_and_in_python(capsys):
    assert main.main(["ttt4rec train", "--dataset=list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in CATALOGUE)
    (line,) = [line for line in printed.splitlines() if line.startswith("kuairec ")]
    assert re.split(r"  +", line) == [
        "kuairec",
        "12,530,806",
        "432 MB",
        "CC BY-SA 4.0",
        "KuaiRec 2.0 (big matrix), short videos watched",
        "https://kuairec.com/",
    ]
    listed = t4r.datasets()
    assert listed["name"].to_list() == list(CATALOGUE)
    assert listed.filter(name="goodreads:poetry")["clicks"].item() is None
    assert listed.filter(name="hm")["by_hand"].item().startswith("accept the competition's rules")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "amazon2014:toys",
            "of amazon2014 (did you mean 'Toys_and_Games'?); expected amazon2014:N",
        ),
        (
            "amazon2014:Sport_and_Outdoors",
            "of amazon2014 (did you mean 'Sports_and_Outdoors'?); expected "
            "amazon2014:NAME with one of Amazon_Instant_Video, Apps_for_Android, ",
        ),
        ("s3rec", "'s3rec' is none of the data sets of s3rec; expected s3rec:NAME with one of Be"),
        ("mind:", "expected mind:NAME with one of small, large"),
        ("ml-1m", "'ml-1m' is an unknown data set (did you mean 'ml1m'?)"),
        ("list", "'list' is an unknown data set; expected one that --dataset=list prints, "),
    ],
)
def test_names_that_are_none(name, message):
    assert message in error_of(DataConfig, dataset=name)


def test_what_a_person_has_to_fetch(tmp_path):
    message = error_of(prepare, DataConfig(dataset="hm"), data_dir=tmp_path)
    assert message == (
        "--dataset=hm: cannot be downloaded without a person; accept the competition's rules at "
        "Kaggle, and download transactions_train.csv (https://www.kaggle.com/competitions/"
        "h-and-m-personalized-fashion-recommendations), and put it at "
        f"{tmp_path}/hm/transactions_train.csv"
    )


def test_a_condition_replaces_that_of_the_catalogue(tmp_path):
    def kept(name, **options):
        config = DataConfig(dataset=name, user_core=1, item_core=1, eval_negatives=1, **options)
        folder = prepare(config, data_dir=tmp_path, cache_dir=tmp_path / "cache")
        return sum(map(len, histories(folder).values()))

    rows = clicks()
    FORMS["retailrocket"](tmp_path, rows)
    assert kept("retailrocket") == len(rows)
    assert kept("retailrocket", where="event IN ('view', 'transaction')") == 4 * len(rows) // 3 + 1
    FORMS["goodreads:poetry"](tmp_path, rows)
    assert kept("goodreads:poetry", where="is_read = 'true' AND rating >= 4") == len(rows)
    FORMS["ml1m"](tmp_path, rows)
    assert kept("ml1m", where="rating >= 4") == len(rows)
    flags = {"data_dir": tmp_path, "cache_dir": tmp_path}
    none = error_of(prepare, DataConfig(dataset="ml1m", where="rating > 5"), **flags)
    assert "do not meet --where='rating > 5'" in none
    unknown = error_of(prepare, DataConfig(dataset="ml1m", where="ratings > 5"), **flags)
    assert "has no column 'ratings' (did you mean 'rating'?)" in unknown
    without = error_of(prepare, DataConfig(dataset="s3rec:Yelp", where="user > 5"), **flags)
    assert without.startswith("--where: s3rec:Yelp has no columns")


OTTO = (
    '{"session":1,"events":[{"aid":5,"ts":20,"type":"clicks"},{"aid":6,"ts":10,"type":"carts"}]}\n'
)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"session":2}\n', "no list 'events'"),
        ('{"session":2,"events":[7]}\n', "a 'events' that is no object"),
        ('{"session":2,"events":[{"ts":20,"type":"clicks"}]}\n', "no item"),
        ('{"session":2,"events":[{"aid":1,"ts":"x","type":"clicks"}]}\n', "timestamp 'x'"),
        ('{"session":2,"events":[{"aid":1,"ts":2,\n', "not JSON"),
        ('{"events":[{"aid":1,"ts":2,"type":"clicks"}]}\n', "no user"),
    ],
)
def test_events_that_cannot_be_read(line, problem, tmp_path, folder):
    """The fast reader and the one that goes row by row agree; nothing is lost unsaid."""
    path = tmp_path / "x.jsonl"
    path.write_text(OTTO)
    layout = dataclasses.replace(CATALOGUE["otto"].layout, where="")
    assert rows_of(readers.read(path, layout, "error", folder)) == [("1", "5", 20), ("1", "6", 10)]
    path.write_text(OTTO + line + OTTO)
    scratch = folder / "2"
    scratch.mkdir()
    assert f"x.jsonl, line 2: {problem}" in error_of(readers.read, path, layout, "error", scratch)
    read = readers.read(path, layout, "skip", folder)
    assert rows_of(read) == 2 * [("1", "5", 20), ("1", "6", 10)]
    assert read.bad.count == 1


def test_impressions_that_cannot_be_read(tmp_path, folder):
    good = "1\tU1\t11/11/2019 12:05:58 AM\tN9 N8\tN3-1 N4-0 N5-1\n"
    wrong = [
        b"2\tU1\t11/11/2019 9:05:58 AM\tN3-1\n",
        b"2\tU1\t11/11/2019 9:05:58 AM\t\tN3\n",
        b"2\tU1\t2019-11-11 09:05:58\t\tN3-1\n",
        b"2\tU1\t11/11/2019 9:05:58 AM\t\t\xff-1\n",
    ]
    problems = (
        "4 fields, expected 5",
        "'N3' among the news shown, expected it to end in -0 or -1",
        "timestamp '2019-11-11 09:05:58', expected a date as --time_format=",
        "not UTF-8 text",
    )
    path = tmp_path / "behaviors.tsv"
    layout = CATALOGUE["mind:small"].layout
    first = 1_570_838_400_000_000  # 12 October 2019
    shown = 1_573_430_758_000_000
    rows = [("U1", "N9", first), ("U1", "N8", first), ("U1", "N3", shown), ("U1", "N5", shown)]
    for number, (line, problem) in enumerate(zip(wrong, problems, strict=True)):
        scratch = folder / str(number)
        scratch.mkdir()
        path.write_bytes(good.encode() + line + b"\n" + good.encode())
        message = error_of(readers.read, path, layout, "error", scratch)
        assert f"behaviors.tsv, line 2: {problem}" in message
        read = readers.read(path, layout, "skip", scratch)
        assert rows_of(read) == rows + rows[2:]  # the history once
        assert read.bad.count == 1


def test_a_date_and_milliseconds():
    form = times.form_of([], times.DATE_AND_MS)
    texts = ["2016-05-09 526309", "2016-05-09 0", "2016-05-09 -5", "2016-05-10 +7"]
    wrong = ["2016-05-09", "2016-05-09 x", "x 5", "2016-05-09 1e3", f"2016-05-09 {10**15}", " 5"]
    start = 1_462_752_000_000_000
    right = [start + 526_309_000, start, start - 5000, start + 86_400_000_000 + 7000]
    found = pl.DataFrame({"t": texts + wrong}).select(form.expression(pl.col("t"))).to_series()
    assert found.to_list() == right + [None] * len(wrong)
    assert [form.parse(text) for text in texts + wrong] == found.to_list()


def test_two_columns_of_a_user_s_own_file(own):
    content = "user;item;day;ms\na;1;2016-05-09;7\na;2;2016-05-09;3\n"
    read = own("x.csv", content, time_col="day,ms", time_format="date+ms")
    assert read.time_unit == "microseconds"
    start = 1_462_752_000_000_000
    assert rows_of(read) == [("a", "1", start + 7000), ("a", "2", start + 3000)]


def test_tar_archives_of_a_user(own, tmp_path):
    def packed(name, mode, members):
        with tarfile.open(tmp_path / name, mode) as archive:
            for member, text in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        return tmp_path / name

    csv = "user,item,time\na,b,1\n"
    assert rows_of(own.read(packed("a.tar.gz", "w:gz", {"d/x.csv": csv}))) == [("a", "b", 1)]
    two = packed("b.tar", "w", {"d/x.csv": csv, "d/y.csv": csv.replace("1", "2")})
    assert "b.tar: holds 2 files (d/x.csv, d/y.csv); name" in error_of(own.read, two)
    assert rows_of(own.read(two, member="d/y.csv")) == [("a", "b", 2)]
    assert rows_of(own.read(two, member="other/y.csv")) == [("a", "b", 2)]
    assert "has no member 'z.csv'" in error_of(own.read, two, member="z.csv")
    damaged = packed("c.tgz", "w:gz", {"x.csv": csv})
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert "c.tgz: damaged or truncated" in error_of(own.read, damaged)
