"""Read text files row by row in Python.

This is the slow counterpart of readers.py: it names the line of a bad row, or skips it.
"""

import dataclasses
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from data_prep import impressions, json_rows, where
from data_prep.archives import open_text, readable
from data_prep.csv_rows import split_rows
from data_prep.forms import CsvForm, ImpressionForm, JsonForm, TextForm
from data_prep.settings import UserError
from data_prep.times import EXPECTED, TimeForm

BATCH = 200_000  # rows in memory at once
SHOWN = 3
CLICK_SCHEMA = {"user": pl.String, "item": pl.String, "time": pl.Int64}


class Row(NamedTuple):
    """A row of a file: its first line, and its values as text or the problem with it.

    values: user, item and time, and those of the condition's columns, None where there is none.
    """

    line: int
    values: tuple[str | None, ...] | None
    problem: str = ""


@dataclasses.dataclass
class BadRows:
    """The number of skipped rows, and the problems of the first few."""

    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)

    def add(self, message: str) -> None:
        """Count a row, and keep the message about it if it is among the first."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(message)


@dataclasses.dataclass
class Condition:
    """What rows must meet (see where.py), and how many did not. samples: some of its texts."""

    text: str = ""
    samples: dict[str, list[str | None]] = dataclasses.field(default_factory=dict)
    excluded: int = 0

    def expression(self) -> pl.Expr:
        """Return whether a row meets it, from columns that `typed` has converted."""
        return where.parse(self.text).fill_null(False)


def text_rows(path: Path, form: TextForm) -> Iterator[Row]:
    """Yield the rows of a text file without blank lines. Raise UserError if it is damaged."""
    with readable(path), open_text(path) as stream:
        if isinstance(form, CsvForm):
            yield from _csv_rows(stream, form)
        elif isinstance(form, JsonForm):
            yield from _json_rows(stream, form)
        elif isinstance(form, ImpressionForm):
            for line, click in impressions.clicks(iter(stream)):
                yield Row(line, None, click) if isinstance(click, str) else Row(line, click)
        else:
            yield from _sequence_rows(stream)


def _csv_rows(stream: io.BufferedIOBase, form: CsvForm) -> Iterator[Row]:
    ids = form.user, form.item
    for line, fields in itertools.islice(split_rows(stream, form), int(form.header), None):
        if isinstance(fields, str):
            yield Row(line, None, fields)
        elif not fields:
            continue
        elif len(fields) > form.width or len(fields) < form.least:
            yield Row(line, None, f"{len(fields)} fields, expected {form.width}")
        elif any(map(_undecodable, fields)):
            yield Row(line, None, "not UTF-8 text")
        else:
            fields += [""] * (form.width - len(fields))
            fields += form.constants
            time = " ".join(fields[position] for position in form.times) if form.times else "0"
            conditions = (fields[position] or None for position in form.where)
            yield Row(line, (*(fields[position] for position in ids), time, *conditions))


def _json_rows(stream: io.BufferedIOBase, form: JsonForm) -> Iterator[Row]:
    text = json_rows.as_text
    for line, content in json_rows.objects(stream, form.style):
        for event in json_rows.events(content, form.events):
            if isinstance(event, str):
                yield Row(line, None, event)
                continue
            event |= dict(form.constants)
            times = [text(event.get(key)) or "" for key in form.times]
            time = " ".join(times) if all(times) else ""
            values = (text(event.get(key)) for key in (form.user, form.item))
            conditions = (text(event.get(key)) for key in form.where)
            yield Row(line, (*values, time if form.times else "0", *conditions))


def _sequence_rows(stream: io.BufferedIOBase) -> Iterator[Row]:
    for line, content in enumerate(stream, 1):
        try:
            user, *items = content.decode("utf-8-sig" if line == 1 else "utf-8").split()
        except UnicodeDecodeError:
            yield Row(line, None, "not UTF-8 text")
            continue
        except ValueError:
            continue  # a blank line
        if not items:
            yield Row(line, None, "a user without items")
        for item in items:
            yield Row(line, (user, item, "0"))


def _undecodable(text: str) -> bool:
    """Return whether a text contains bytes that were not UTF-8."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def sample(path: Path, form: TextForm, count: int = 1000) -> list[tuple[str | None, ...]]:
    """Return the values of a text file's first good rows."""
    good = (row.values for row in text_rows(path, form) if row.values and not _missing(row.values))
    return list(itertools.islice(good, count))


def parse_rows(
    rows: Iterable[Row],
    time: TimeForm,
    condition: Condition,
    label: str,
    on_bad_rows: str,
    folder: Path,
    unit: str = "line",
) -> tuple[pl.LazyFrame, BadRows]:
    """Write the good rows to Parquet files in `folder`; return a scan of them, and the bad rows.

    The scan has the columns user, item and time. Memory holds one batch of rows. unit: what
    row.line counts. Raise UserError at the first bad row if on_bad_rows is 'error', and NotWhole
    (see times.py).
    """
    bad = BadRows()
    files = []
    folder.mkdir(exist_ok=True)
    batches = _batches(iter(rows))
    for number, batch in enumerate(batches):
        if condition.text:
            batch = _that_meet(condition, batch)
        good = list(_good(batch, time, label, on_bad_rows, bad, unit))
        files.append(folder / f"part-{number}.parquet")
        pl.DataFrame(good, schema=CLICK_SCHEMA, orient="row").write_parquet(files[-1])
    return (pl.scan_parquet(files, glob=False) if files else pl.LazyFrame(schema=CLICK_SCHEMA)), bad


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


def _that_meet(condition: Condition, batch: list[Row]) -> list[Row]:
    """Return the rows that meet a condition, and those that cannot be read; count the others."""
    names = list(condition.samples)
    texts = pl.DataFrame(
        [row.values[3:] if row.values else [None] * len(names) for row in batch],
        schema=dict.fromkeys(names, pl.String),
        orient="row",
    )
    try:
        typed = texts.with_columns(where.typed(condition.samples))
        meets = typed.select(condition.expression()).to_series().to_list()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise where.condition_error(condition.text, error) from error
    kept = [row for row, meet in zip(batch, meets, strict=True) if meet or row.values is None]
    condition.excluded += len(batch) - len(kept)
    return kept


def _missing(values: tuple[str | None, ...]) -> str:
    """Return which of user, item and time is missing, "" if none is."""
    roles = zip(("user", "item", "timestamp"), values, strict=False)
    return next((role for role, value in roles if not value), "")


def _good(
    rows: Iterable[Row], time: TimeForm, label: str, on_bad_rows: str, bad: BadRows, unit: str
) -> Iterator[tuple[str, str, int]]:
    """Yield the good rows with their times parsed; add the others to `bad`, or raise UserError."""
    parse = time.parse
    for row in rows:
        problem = row.problem
        if row.values:
            user, item, text = row.values[:3]
            if user and item and text:
                value = parse(text)
                if value is not None:
                    yield user, item, value
                    continue
                problem = f"timestamp {text[:40]!r}, expected {_expected(time)}"
            else:
                problem = f"no {_missing(row.values)}"
        message = f"{unit} {row.line}: {problem}"
        if on_bad_rows == "error":
            raise UserError(
                f"{label}, {message}; correct the file or skip such rows with --on_bad_rows=skip"
            )
        bad.add(message)


def _expected(time: TimeForm) -> str:
    return f"a date as --time_format={time.format}" if time.is_given else EXPECTED
