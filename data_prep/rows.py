"""Text files row by row in Python: the slow twin of readers.py, which names the line of a bad row, or skips it."""

import collections
import contextlib
import csv
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import polars as pl

from data_prep.archives import open_text, readable
from data_prep.columns import PARSERS, is_time
from data_prep.settings import UserError
from data_prep.sources import Layout

BATCH = 200_000
SHOWN = 3
MOST_LINES = 100  # of a row; titles and even reviews have fewer
OPEN = "a quote that opens a field of this row"
CLOSED = "expected one at the field's end too"
EXPECTED_TIME = "a unix time or an ISO 8601 date-time, of one kind in the whole file"


class Row(NamedTuple):
    """A row of a file: the line it begins at, (user, item, time) as text, or what is wrong with it."""

    line: int
    values: tuple[str, str, str] | None
    problem: str = ""


@dataclasses.dataclass
class BadRows:
    """How many rows were skipped, and what was wrong with the first few."""

    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)

    def add(self, message: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(message)


def text_rows(path: Path, layout: Layout, width: int) -> Iterator[Row]:
    """The rows of a text file, blank lines left out. width: how many columns it has.

    layout: with positions of the columns, or keys where the file is JSON. Raises UserError where
    the file is damaged.
    """
    with readable(path), open_text(path) as stream:
        yield from (
            _json_rows(stream, layout)
            if layout.kind == "json"
            else _csv_rows(stream, layout, width)
        )


def _csv_rows(stream: BinaryIO, layout: Layout, width: int) -> Iterator[Row]:
    places = layout.user, layout.item, layout.time
    for line, fields in itertools.islice(_fields(stream, layout, width), int(layout.header), None):
        if isinstance(fields, str):
            yield Row(line, None, fields)
        elif not fields:
            continue
        elif len(fields) > width or len(fields) <= max(places):
            yield Row(line, None, f"{len(fields)} fields, expected {width}")
        elif any(map(_undecodable, fields)):
            yield Row(line, None, "not UTF-8 text")
        else:
            yield _checked(line, [fields[place] for place in places])


def _fields(
    stream: BinaryIO,
    layout: Layout,
    width: int,
) -> Iterator[tuple[int, list[str] | str]]:
    """(line, fields) of each row, or (line, what is wrong) if it cannot be split.

    Bytes that are not UTF-8 stay, escaped. A quote that is not closed, or only by a stray one,
    costs the line of its row alone: the lines that it swallowed are read again.
    """
    lines = (
        line.decode("utf-8-sig" if n == 0 else "utf-8", "surrogateescape")
        for n, line in enumerate(stream)
    )
    if not layout.quoted:
        for n, line in enumerate(lines, 1):
            text = line.rstrip("\r\n")
            yield n, text.split(layout.separator) if text else []
        return
    taken: list[str] = []  # the lines of the present row
    again: collections.deque[str] = collections.deque()

    def take() -> str | None:
        if len(taken) == MOST_LINES:
            raise csv.Error(f"{OPEN} is not closed within {MOST_LINES} lines, {CLOSED}")
        text = again.popleft() if again else next(lines, None)
        if text is None and taken:
            raise csv.Error(f"{OPEN} is never closed, {CLOSED}")
        if text is not None:
            taken.append(text)
        return text

    reader = csv.reader(iter(take, None), delimiter=layout.separator)
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = f"not CSV ({error})"
        if len(taken) > 1 and not isinstance(fields, str) and _is_stray(taken, layout, width):
            fields = f"not CSV ({OPEN} swallows the lines after it, {CLOSED})"
        if isinstance(fields, str):
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
        yield line, fields
        line += len(taken)
        taken.clear()


def count_rows(path: Path, layout: Layout, width: int) -> int:
    """How many rows a CSV file has, its header counted; -1 if one of its quotes may be a stray one.

    Only the lines of rows of several lines are split into fields: those from one line with an odd
    number of quotes to the next.
    """
    count = 0
    taken: list[str] = []
    with readable(path), open_text(path) as stream:
        for line in stream:
            is_odd = line.count(b'"') % 2 == 1
            if taken or is_odd:
                taken.append(line.decode("utf-8", "surrogateescape"))
            if not taken:
                count += 1
            elif is_odd and len(taken) > 1:
                if _is_stray(taken, layout, width):
                    return -1
                taken.clear()
                count += 1
            elif len(taken) == MOST_LINES:
                return -1
    return -1 if taken else count


def _is_stray(lines: list[str], layout: Layout, width: int) -> bool:
    """Whether the quotes that make one row of several lines are stray ones.

    They are if the row is not as RFC 4180 has it, or if a line within it is a row by itself, or
    both its first and its last line are. One of these two alone may be a row in a sound file: the
    first where the text of several lines is the last field, the last where it is the first field.
    """
    reader = csv.reader(lines, delimiter=layout.separator, strict=True)
    try:
        fields = next(reader)
    except csv.Error:
        return True
    least = 1 + max(layout.user, layout.item, layout.time)
    if reader.line_num < len(lines) or not least <= len(fields) <= width:
        return True
    alone = [_is_click(line, layout, width) for line in lines]
    return any(alone[1:-1]) or (alone[0] and alone[-1])


def _is_click(line: str, layout: Layout, width: int) -> bool:
    """Whether a line is a whole row by itself, its quotes taken for quotes or for letters."""
    splits = [line.rstrip("\r\n").split(layout.separator)]
    with contextlib.suppress(csv.Error):
        splits += csv.reader([line], delimiter=layout.separator)
    for fields in splits:
        has_ids = len(fields) == width and "" not in (fields[layout.user], fields[layout.item])
        if has_ids and is_time(fields[layout.time]):
            return True
    return False


def _json_rows(stream: BinaryIO, layout: Layout) -> Iterator[Row]:
    for line, text in enumerate(stream, 1):
        if not text.strip():
            continue
        try:
            found = json.loads(text.decode("utf-8-sig" if line == 1 else "utf-8"))
        except UnicodeDecodeError:
            yield Row(line, None, "not UTF-8 text")
            continue
        except (ValueError, RecursionError) as error:
            yield Row(line, None, f"not JSON ({error})")
            continue
        if not isinstance(found, dict):
            yield Row(line, None, f"a {type(found).__name__}, expected a JSON object")
            continue
        values = [found.get(key) for key in (layout.user, layout.item, layout.time)]
        yield _checked(line, [_json_text(value) for value in values])


def _json_text(value: object) -> str:
    """A value as polars writes it in a text column."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _checked(line: int, values: list[str]) -> Row:
    for role, value in zip(("user", "item", "timestamp"), values, strict=True):
        if value == "":
            return Row(line, None, f"no {role}")
    return Row(line, tuple(values))


def _undecodable(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def sample_times(path: Path, layout: Layout, width: int, count: int = 1000) -> list[str]:
    """The times of a text file's first good rows, as text."""
    good = (row.values[2] for row in text_rows(path, layout, width) if row.values)
    return list(itertools.islice(good, count))


def parse_rows(
    rows: Iterable[Row], kind: str, label: str, on_bad_rows: str, folder: Path
) -> tuple[pl.LazyFrame, BadRows]:
    """Good rows -> parquet files in `folder`, scanned as columns user, item, time; memory holds one batch of them.

    Raises UserError at the first bad row if on_bad_rows is 'error', and NotWhole (see columns.py).
    """
    bad = BadRows()
    parse = PARSERS[kind]
    files = []
    for number, batch in enumerate(_batches(_times(rows, parse, label, on_bad_rows, bad))):
        files.append(folder / f"part-{number}.parquet")
        pl.DataFrame(batch, schema=CLICK_SCHEMA, orient="row").write_parquet(files[-1])
    return (pl.scan_parquet(files, glob=False) if files else pl.LazyFrame(schema=CLICK_SCHEMA)), bad


CLICK_SCHEMA = {"user": pl.String, "item": pl.String, "time": pl.Int64}


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
                f"{label}, {message}; mend the file or skip such rows with --on_bad_rows=skip"
            )
        bad.add(message)
