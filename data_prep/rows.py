"""Read text files row by row in Python.

This is the slow counterpart of readers.py: it names the line of a bad row, or skips it.
"""

import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from data_prep.archives import open_text, readable
from data_prep.columns import PARSERS
from data_prep.csv_rows import split_rows
from data_prep.forms import CsvForm, JsonForm, TextForm
from data_prep.settings import UserError

BATCH = 200_000  # rows in memory at once
SHOWN = 3
EXPECTED_TIME = "a unix time or an ISO 8601 date-time, of one kind in the whole file"
CLICK_SCHEMA = {"user": pl.String, "item": pl.String, "time": pl.Int64}


class Row(NamedTuple):
    """A row of a file: its first line, and (user, item, time) as text or the problem with it."""

    line: int
    values: tuple[str, str, str] | None
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


def text_rows(path: Path, form: TextForm) -> Iterator[Row]:
    """Yield the rows of a text file without blank lines. Raise UserError if it is damaged."""
    with readable(path), open_text(path) as stream:
        if isinstance(form, JsonForm):
            yield from _json_rows(stream, form)
        else:
            yield from _csv_rows(stream, form)


def _csv_rows(stream: io.BufferedIOBase, form: CsvForm) -> Iterator[Row]:
    positions = form.user, form.item, form.time
    for line, fields in itertools.islice(split_rows(stream, form), int(form.header), None):
        if isinstance(fields, str):
            yield Row(line, None, fields)
        elif not fields:
            continue
        elif len(fields) > form.width or len(fields) <= max(positions):
            yield Row(line, None, f"{len(fields)} fields, expected {form.width}")
        elif any(map(_undecodable, fields)):
            yield Row(line, None, "not UTF-8 text")
        else:
            yield _checked(line, fields[form.user], fields[form.item], fields[form.time])


def _json_rows(stream: io.BufferedIOBase, form: JsonForm) -> Iterator[Row]:
    for line, text in enumerate(stream, 1):
        if not text.strip():
            continue
        try:
            content = json.loads(text.decode("utf-8-sig" if line == 1 else "utf-8"))
        except UnicodeDecodeError:
            yield Row(line, None, "not UTF-8 text")
            continue
        except (ValueError, RecursionError) as error:
            yield Row(line, None, f"not JSON ({error})")
            continue
        if not isinstance(content, dict):
            yield Row(line, None, f"a {type(content).__name__}, expected a JSON object")
            continue
        user, item, time = (_json_text(content.get(key)) for key in form)
        yield _checked(line, user, item, time)


def _json_text(value: object) -> str:
    """Return a value as polars writes it in a text column."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _checked(line: int, user: str, item: str, time: str) -> Row:
    """Return a row with these values, or one that says which of them is missing."""
    for role, value in (("user", user), ("item", item), ("timestamp", time)):
        if value == "":
            return Row(line, None, f"no {role}")
    return Row(line, (user, item, time))


def _undecodable(text: str) -> bool:
    """Return whether a text contains bytes that were not UTF-8."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def sample_times(path: Path, form: TextForm, count: int = 1000) -> list[str]:
    """Return the times of a text file's first good rows, as text."""
    good = (row.values[2] for row in text_rows(path, form) if row.values)
    return list(itertools.islice(good, count))


def parse_rows(
    rows: Iterable[Row], kind: str, label: str, on_bad_rows: str, folder: Path
) -> tuple[pl.LazyFrame, BadRows]:
    """Write the good rows to Parquet files in `folder`; return a scan of them, and the bad rows.

    The scan has the columns user, item and time. Memory holds one batch of rows. kind: the kind of
    the times, see columns.py. Raise UserError at the first bad row if on_bad_rows is 'error', and
    NotWhole (see columns.py).
    """
    bad = BadRows()
    parse = PARSERS[kind]
    files = []
    for number, batch in enumerate(_batches(_times(rows, parse, label, on_bad_rows, bad))):
        files.append(folder / f"part-{number}.parquet")
        pl.DataFrame(batch, schema=CLICK_SCHEMA, orient="row").write_parquet(files[-1])
    return (pl.scan_parquet(files, glob=False) if files else pl.LazyFrame(schema=CLICK_SCHEMA)), bad


def _batches(rows: Iterator[tuple]) -> Iterator[list[tuple]]:
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


def _times(
    rows: Iterable[Row],
    parse: Callable[[str], int | None],
    label: str,
    on_bad_rows: str,
    bad: BadRows,
) -> Iterator[tuple[str, str, int]]:
    """Yield the good rows with their times parsed; add the others to `bad`, or raise UserError."""
    for row in rows:
        problem = row.problem
        if row.values:
            user, item, text = row.values
            time = parse(text)
            if time is not None:
                yield user, item, time
                continue
            problem = f"timestamp {text[:40]!r}, expected {EXPECTED_TIME}"
        message = f"line {row.line}: {problem}"
        if on_bad_rows == "error":
            raise UserError(
                f"{label}, {message}; correct the file or skip such rows with --on_bad_rows=skip"
            )
        bad.add(message)
