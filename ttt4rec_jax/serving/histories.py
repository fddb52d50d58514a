"""Stream histories from files of any size. Imports no JAX."""

import contextlib
import csv
import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.settings import UserError, first_line

FORMATS = """\
Histories are read from a .parquet, .csv or .jsonl file, or as JSON lines from stdin (-). The
columns are either user and items, the list of a user's item ids in order (in a .csv separated by
spaces), or user and item, one row per click; then the clicks of a user must be in adjacent rows,
in order, or with a column time or timestamp by which they are ordered (stably). A run with --time
needs this column or, beside items, the list times.

Recommendations are written to a .parquet or .csv file with one row per recommended item: user,
rank, item, score, title (if the data has titles) and source ("model", or "popularity" for an empty
history); or to a .jsonl file or stdout (-) with one line per user, which holds lists. The file
appears under its name only when it is complete."""
TIMES = ("time", "timestamp")  # columns that order the clicks of a user
SUFFIXES = (".parquet", ".csv", ".jsonl")
BATCH_ROWS = 8192  # rows of a Parquet file that are read at a time


def file_format(flag: str, path: str) -> str:
    """Return the suffix that determines a file's format. Raise UserError for an unknown one."""
    suffix = ".jsonl" if path == "-" else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{flag}: {path!r} has an unknown format; "
            f"expected a name in {', '.join(SUFFIXES)}, or -"
        )
    return suffix


class History(NamedTuple):
    """The clicks of a user, in order; times: theirs in seconds, None if the file has none."""

    user: Any
    items: list
    times: list[float] | None


class Reader:
    """Iterate over the histories of a file.

    done, total, unit: the progress, in bytes or rows; total is None if it is unknown.
    """

    def __init__(self, path: str, reads_times: bool = False):
        """reads_times: whether times are returned. Raise UserError if there is no such file."""
        self.path = path
        self.reads_times = reads_times
        self.kind = file_format("--histories", path)
        self.done = 0
        self.total: int | None = None
        self.unit = "B"
        if path == "-":
            return
        if not Path(path).is_file():
            raise UserError(
                f"--histories: no file {path}; "
                f"expected a {', '.join(SUFFIXES)} file of histories, or -"
            )
        self.total = os.path.getsize(path)

    def __iter__(self) -> Iterator[History]:
        read = {".parquet": self._parquet, ".csv": self._csv, ".jsonl": self._jsonl}[self.kind]
        rows = read()
        try:
            first = next(rows, None)
            if first is None:
                raise self._error("holds no histories")
            if self.reads_times and not {*TIMES, "times"} & set(first):
                raise self._error("has no times of clicks, which a run with --time reads")
            histories = self._grouped if "item" in first else self._lists
            yield from histories(itertools.chain([first], rows))
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error

    def _error(self, what: str) -> UserError:
        name = "stdin" if self.path == "-" else self.path
        expected = (
            '{"user": ..., "items": [...]} on each line'
            if self.kind == ".jsonl"
            else "columns user and items, or user and item"
        )
        expected += ", and times or time" * self.reads_times
        return UserError(f"--histories: {name}: {what}; expected {expected}")

    def _lists(self, rows: Iterator[dict]) -> Iterator[History]:
        for row in rows:
            items = _listed(row["items"])
            times = None
            if self.reads_times and "times" in row:
                times = self._seconds(row["user"], _listed(row["times"]))
            yield History(row["user"], items, times)

    def _grouped(self, rows: Iterator[dict]) -> Iterator[History]:
        # remembers users (by hash), since rows that are not adjacent would become several histories
        finished = set()
        for user, clicks in itertools.groupby(rows, lambda row: row["user"]):
            if hash(user) in finished:
                raise self._error(f"the rows of user {user!r} are not adjacent; sort them by user")
            finished.add(hash(user))
            ordered = self._in_order(user, list(clicks))
            name = next((name for name in TIMES if name in ordered[0]), "")
            times = None
            if self.reads_times and name:
                times = self._seconds(user, [row[name] for row in ordered])
            yield History(user, [row["item"] for row in ordered], times)

    def _seconds(self, user: Any, times: list) -> list[float]:
        try:
            return list(map(seconds_of, times))
        except (TypeError, ValueError) as error:
            raise self._error(f"user {user!r} has a time that is none ({error})") from error

    def _in_order(self, user: Any, clicks: list[dict]) -> list[dict]:
        """Return a user's clicks in the order of their times, if they have any."""
        name = next((name for name in TIMES if name in clicks[0]), "")
        if not name:
            return clicks
        try:
            return sorted(clicks, key=lambda row: _moment(row[name]))
        except (TypeError, ValueError) as error:
            raise self._error(
                f"user {user!r} has a {name} that is no time, or of another kind ({error})"
            ) from error

    def _lines(self) -> Iterator[str]:
        with contextlib.ExitStack() as stack:
            file = (
                sys.stdin.buffer if self.path == "-" else stack.enter_context(open(self.path, "rb"))
            )
            for number, line in enumerate(file, 1):
                self.done += len(line)
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise self._error(f"line {number} is not UTF-8 text") from error

    def _jsonl(self) -> Iterator[dict]:
        first = None
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._error(f"line {number} is not JSON ({error})") from error
            names = self._names(row) if isinstance(row, dict) else None
            first = first or names
            if (
                names is None
                or names != first
                or not isinstance(row["user"], (str, int))
                or isinstance(row[names[1]], list) != (names[1] == "items")
            ):
                raise self._error(f"line {number} is {line.strip()[:60]}")
            yield {name: row[name] for name in names}

    def _csv(self) -> Iterator[dict]:
        rows = csv.DictReader(self._lines(), strict=True)
        try:
            columns = rows.fieldnames or []
            names = self._names(columns)
            if names is None:
                raise self._error(f"has the columns {', '.join(columns) or 'none'}")
            for row in rows:
                if None in row or None in row.values():
                    raise self._error(f"line {rows.line_num} does not have {len(columns)} fields")
                yield {name: row[name] for name in names}
        except csv.Error as error:
            raise self._error(f"at line {rows.line_num}: {error}") from error

    def _parquet(self) -> Iterator[dict]:
        import polars as pl  # imported late, so that --help is fast

        try:
            frame = pl.scan_parquet(self.path, glob=False)
            schema = frame.collect_schema()
            if (names := self._names(schema)) is None:
                raise self._error(f"has the columns {', '.join(schema)}")
            if schema["user"].is_nested():
                raise self._error(f"has users of type {schema['user']}")
            self.total = frame.select(pl.len()).collect().item()
            self.unit = " rows"
            for part in frame.select(names).collect_batches(chunk_size=BATCH_ROWS):
                for row in part.iter_rows(named=True):
                    self.done += 1
                    yield row
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise self._error(f"cannot be read ({first_line(error)})") from error

    def _names(self, columns: Iterable[str]) -> tuple[str, ...] | None:
        """Return the columns that hold the histories; None if there are none."""
        if {"user", "items"} <= set(columns):
            return "user", "items", *["times"] * (self.reads_times and "times" in columns)
        if {"user", "item"} <= set(columns):
            return "user", "item", *[name for name in TIMES if name in columns][:1]
        return None


def _listed(value: Any) -> list:
    return value.split() if isinstance(value, str) else value or []


def seconds_of(value: Any) -> float:
    """Return a time in seconds since 1970; that of a number is in the unit that its size shows."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    from data_prep.times import PER_SECOND, date_time, unit_of

    try:
        number = float(value)
    except ValueError:
        if (moment := date_time(value)) is None:
            raise
        return moment / PER_SECOND["microseconds"]
    if not math.isfinite(number):
        raise ValueError(f"{number}")
    return number / PER_SECOND[unit_of([number])]


def _moment(value: Any) -> Any:
    """Return what a time is sorted by. Raise ValueError if a text is none."""
    if not isinstance(value, str):
        if value is None:
            raise ValueError("null")
        return value
    from data_prep.times import date_time  # imports polars, which --help need not wait for

    try:
        return int(value)
    except ValueError:
        moment = date_time(value)
        return float(value) if moment is None else moment
