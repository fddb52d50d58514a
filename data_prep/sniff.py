"""What the first lines of a text file show: its separator, and whether it has a header."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

from data_prep.archives import open_text, readable
from data_prep.columns import KNOWN, plain
from data_prep.settings import UserError
from data_prep.times import is_clock, is_time

LINES = 1000
LONGEST = 1 << 20  # bytes of a line
DEFAULT_COMMENT = "#"  # of lines before the header
NAMES = {"\t": "tab", " ": "space"}


def first_lines(path: Path, label: str, count: int = LINES) -> list[str]:
    """Return the first lines of a text file, without their ends. Raise UserError."""
    lines = []
    with readable(path), open_text(path) as stream:
        raw = list(itertools.islice(iter(lambda: stream.readline(LONGEST), b""), count))
    for number, line in enumerate(raw):
        try:
            lines.append(line.decode("utf-8-sig" if number == 0 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError as error:
            if number == 0:
                raise UserError(
                    f"{label}, line 1: not UTF-8 text ({error.reason}); save the file as UTF-8"
                ) from error
    return lines


def leading_comments(lines: Sequence[str], comment: str) -> int:
    """Return the number of first lines that are comments."""
    prefixes = (DEFAULT_COMMENT, comment or DEFAULT_COMMENT)
    return next((n for n, line in enumerate(lines) if not line.startswith(prefixes)), len(lines))


def separator_of(line: str, suffix: str) -> str:
    """Return the separator of a line's fields, "" if there is none.

    It is the usual one of the suffix if that occurs; otherwise the one that makes most fields.
    """
    usual = {".csv": [","], ".tsv": ["\t"], ".inter": ["\t"]}.get(suffix, ["\t", "::"])
    if found := [separator for separator in usual if separator in line]:
        return found[0]
    counts = {separator: line.count(separator) for separator in ("\t", "::", ";", "|", ",")}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else " " if " " in line else ""


def split(line: str, separator: str, quoted: bool) -> list[str]:
    """Return the fields of a line. Raise csv.Error if its quotes are not those of CSV."""
    if not quoted or len(separator) > 1:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator), [])


def is_header(fields: Sequence[str]) -> bool:
    """Return whether the fields of a first line are names of columns.

    They are not if one of them is a number or a time, unless others are well-known names.
    """
    known = {name for names in KNOWN.values() for name in names.split()}
    if sum(plain(field) in known for field in fields) >= 2:
        return True
    return not any(is_time(field) or is_clock([field]) for field in fields)


def columns_of(
    lines: Sequence[str], names: Sequence[str], separator: str, quoted: bool
) -> dict[str, list[str]]:
    """Return {name: values} of the lines that have a field for each name."""
    rows = []
    for line in lines:
        try:
            fields = split(line, separator, quoted)
        except csv.Error:
            continue
        if len(fields) == len(names):
            rows.append(fields)
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}


def found(line: str, separator: str) -> str:
    """Return what was found in a file, for errors."""
    name = NAMES.get(separator, separator) or "none"
    return f"first line {line[:60]!r}, separator {name}"
