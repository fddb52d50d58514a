"""Split CSV files into rows of fields, and detect quotes that are never closed."""

import collections
import contextlib
import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

from data_prep.archives import open_text, readable
from data_prep.forms import CsvForm
from data_prep.times import is_clock, is_time

MOST_LINES = 100  # maximum of a row; titles and even reviews have fewer
OPEN = "a quote that opens a field of this row"
CLOSED = "expected one at the field's end too, or --noquoted if quotes are characters"


def split_rows(stream: io.BufferedIOBase, form: CsvForm) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each row's first line and its fields, or the problem if it cannot be split.

    Bytes that are not UTF-8 are kept, escaped.
    """
    lines: Iterator[str] = (
        line.decode("utf-8-sig" if n == 0 else "utf-8", "surrogateescape")
        for n, line in enumerate(stream)
    )
    lines = itertools.islice(lines, form.skipped, None)
    if form.comment:  # as blank lines, to keep the count
        lines = ("\n" if line.startswith(form.comment) else line for line in lines)
    if form.quoted and len(form.separator) == 1:
        yield from _quoted_fields(lines, form)
        return
    for number, text in enumerate(lines, 1 + form.skipped):
        text = text.rstrip("\r\n")
        yield number, text.split(form.separator) if text else []


def _quoted_fields(lines: Iterator[str], form: CsvForm) -> Iterator[tuple[int, list[str] | str]]:
    """Yield what split_rows does, for rows whose quoted fields may span lines.

    A quote that is never closed, or closed only by a stray one, invalidates only the first line of
    its row: the lines that it swallowed are read again.
    """
    taken: list[str] = []  # the lines of the current row
    again: collections.deque[str] = collections.deque()  # lines to be read again

    def take() -> str | None:
        if len(taken) == MOST_LINES:
            raise csv.Error(f"{OPEN} is not closed within {MOST_LINES} lines, {CLOSED}")
        text = again.popleft() if again else next(lines, None)
        if text is None and taken:
            raise csv.Error(f"{OPEN} is never closed, {CLOSED}")
        if text is not None:
            taken.append(text)
        return text

    reader = csv.reader(iter(take, None), delimiter=form.separator)
    number = 1 + form.skipped
    while True:
        fields: list[str] | str
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = f"not CSV ({error})"
        if len(taken) > 1 and not isinstance(fields, str) and _is_stray(taken, form):
            fields = f"not CSV ({OPEN} swallows the lines after it, {CLOSED})"
        if isinstance(fields, str):
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
        yield number, fields
        number += len(taken)
        taken.clear()


def count_rows(path: Path, form: CsvForm) -> int:
    """Return the number of rows of a CSV file, including its header; -1 if a quote may be stray.

    Comments are not counted.

    Only rows of several lines are split into fields: those from one line with an odd number of
    quotes to the next such line.
    """
    count = 0
    taken: list[str] = []
    with readable(path), open_text(path) as stream:
        for line in itertools.islice(stream, form.skipped, None):
            if form.comment and not taken and line.startswith(form.comment.encode()):
                continue
            is_odd = line.count(b'"') % 2 == 1
            if taken or is_odd:
                taken.append(line.decode("utf-8", "surrogateescape"))
            if not taken:
                count += 1
            elif is_odd and len(taken) > 1:
                if _is_stray(taken, form):
                    return -1
                taken.clear()
                count += 1
            elif len(taken) == MOST_LINES:
                return -1
    return -1 if taken else count


def _is_stray(lines: list[str], form: CsvForm) -> bool:
    """Return whether the quotes that join several lines to one row are stray ones.

    They are if the row violates RFC 4180, if an inner line is a row by itself, or if both its first
    and its last line are. One of these two may look like a row in a valid file: the first line if
    a text of several lines is the last field, the last line if it is the first field.
    """
    reader = csv.reader(lines, delimiter=form.separator, strict=True)
    try:
        fields = next(reader)
    except csv.Error:
        return True
    if reader.line_num < len(lines) or not form.least <= len(fields) <= form.width:
        return True
    alone = [_is_click(line, form) for line in lines]
    return any(alone[1:-1]) or (alone[0] and alone[-1])


def _is_click(line: str, form: CsvForm) -> bool:
    """Return whether a line is a row by itself, with its quotes read as quotes or as characters."""
    splits = [line.rstrip("\r\n").split(form.separator)]
    with contextlib.suppress(csv.Error):
        splits += csv.reader([line], delimiter=form.separator)
    ids = [position for position in (form.user, form.item) if position < form.width]
    for fields in splits:
        if len(fields) != form.width or any(not fields[position] for position in ids):
            continue
        times = [fields[position] for position in form.times if position < form.width]
        if all(is_time(time) or is_clock([time]) for time in times):
            return True
    return False
