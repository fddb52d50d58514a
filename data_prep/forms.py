"""How a text file holds clicks: its columns, found by the names in its header or its objects."""

import csv
import itertools
import json
from pathlib import Path
from typing import NamedTuple

from data_prep.archives import open_text, readable
from data_prep.columns import find_columns
from data_prep.settings import UserError
from data_prep.sources import Layout


class CsvForm(NamedTuple):
    """How a CSV file holds clicks. user, item, time: positions among its `width` columns."""

    user: int
    item: int
    time: int
    width: int
    separator: str
    header: bool
    quoted: bool


class JsonForm(NamedTuple):
    """How a file of JSON objects, one per line, holds clicks. user, item, time: keys."""

    user: str
    item: str
    time: str


TextForm = CsvForm | JsonForm


def text_form(path: Path, layout: Layout, label: str) -> TextForm:
    """Return how a text file holds clicks, with its columns found. Raise UserError."""
    if layout.kind == "json":
        return JsonForm(*find_columns(layout, _json_names(path, label), label))
    if layout.header:
        names = _csv_names(path, layout, label)
        positions = [names.index(name) for name in find_columns(layout, names, label)]
    else:
        names = [""] * layout.columns
        positions = [int(column) for column in (layout.user, layout.item, layout.time)]
    user, item, time = positions
    return CsvForm(user, item, time, len(names), layout.separator, layout.header, layout.quoted)


def _csv_names(path: Path, layout: Layout, label: str) -> list[str]:
    """Return the names in a file's first line. Raise UserError."""
    with readable(path), open_text(path) as stream:
        first = stream.readline(1 << 20)
    try:
        text = first.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{label}, line 1: not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from error
    if not text:
        raise UserError(
            f"{label}: is empty or begins with an empty line; expected a header that names the "
            "columns"
        )
    if not layout.quoted:
        return text.split(layout.separator)
    try:
        return next(csv.reader([text], delimiter=layout.separator))
    except csv.Error as error:  # a lone carriage return, or a field over 131,072 characters
        raise UserError(
            f"{label}, line 1: not CSV ({error}); end lines with a line feed"
        ) from error


def _json_names(path: Path, label: str) -> list[str]:
    """Return the keys of the objects in a file's first thousand lines. Raise UserError.

    Bad lines are skipped: rows.py reports them.
    """
    names: dict[str, object] = {}
    with readable(path), open_text(path) as stream:
        for line in itertools.islice(stream, 1000):
            try:
                content = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                names.update(content)
    if names:
        return list(names)
    raise UserError(
        f"{label}: holds no JSON object in its first 1000 lines; expected one per line, in UTF-8"
    )
