"""How a text file holds clicks: its columns, found by the names in its header or its objects."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from data_prep import json_rows, sniff, where
from data_prep.catalogue.entry import Layout
from data_prep.columns import Columns, find_columns
from data_prep.inputs import Part
from data_prep.settings import UserError
from data_prep.times import is_time


class CsvForm(NamedTuple):
    """How a CSV file holds clicks.

    user, item, times, where: positions among its `width` columns, and the constants after them.
    names: those of all columns. skipped: lines before the header or the first row. comment: how
    lines begin that are no rows, "" if all are.
    """

    user: int
    item: int
    times: tuple[int, ...]
    width: int
    separator: str
    header: bool
    quoted: bool
    names: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    skipped: int = 0
    comment: str = ""
    where: tuple[int, ...] = ()

    @property
    def least(self) -> int:
        """The least number of fields of a row."""
        positions = (self.user, self.item, *self.times)
        return 1 + max(position for position in positions if position < self.width)


class JsonForm(NamedTuple):
    """How a file of JSON objects holds clicks. user, item, times, where: keys.

    style: lines, array (one array of objects) or python (dicts as Python writes them). events: the
    key of an object under which it holds its clicks, each with further keys; "" if it is a click.
    outer: which of all these keys are then the object's own.
    """

    user: str
    item: str
    times: tuple[str, ...]
    style: str = "lines"
    constants: tuple[tuple[str, str], ...] = ()
    where: tuple[str, ...] = ()
    events: str = ""
    outer: tuple[str, ...] = ()


class SequenceForm(NamedTuple):
    """A file of lines that hold a user and the user's items in order, separated by spaces."""


class ImpressionForm(NamedTuple):
    """A file of impressions, as those of MIND; see impressions.py."""


TextForm = CsvForm | JsonForm | SequenceForm | ImpressionForm


class Found(NamedTuple):
    """A file's form, its columns, and what was found out about it, for the manifest."""

    form: TextForm
    columns: Columns
    facts: dict[str, object]


def text_form(part: Part) -> Found:
    """Return how a text file holds clicks, with its columns found. Raise UserError."""
    layout = part.layout
    if layout.kind == "sequences":
        return Found(SequenceForm(), Columns("first", "others", ()), {"layout": "sequences"})
    if layout.kind == "impressions":
        columns = Columns("user", "history and impressions", ("time",))
        return Found(ImpressionForm(), columns, {"layout": "impressions"})
    if layout.kind == "json":
        return _json_form(part)
    return _csv_form(part)


def _json_form(part: Part) -> Found:
    style = json_rows.style_of(part.path)
    events = part.layout.events
    samples, outer = json_rows.samples(part.path, style, part.label, events)
    samples |= {name: [value] for name, value in part.constants.items()}
    columns = find_columns(part.layout, list(samples), part.label, samples)
    where.check_columns(part.layout.where, list(samples), part.label)
    form = JsonForm(
        columns.user,
        columns.item,
        columns.times,
        style,
        tuple(part.constants.items()),
        where.columns_of(part.layout.where),
        events,
        outer,
    )
    return Found(form, columns, {} if style == "lines" else {"objects": style})


def _csv_form(part: Part) -> Found:
    """Return the form of a CSV file. Raise UserError."""
    layout = part.layout
    lines = sniff.first_lines(part.path, part.label)
    skipped = sniff.leading_comments(lines, layout.comment)
    first = lines[skipped] if skipped < len(lines) else ""
    if not first:
        raise UserError(
            f"{part.label}: is empty or begins with an empty line; expected a header that names "
            "the columns"
        )
    separator = layout.separator or sniff.separator_of(first, _suffix(part))
    what = f"{part.label} ({sniff.found(first, separator)})"
    if not separator:
        raise UserError(f"{what}: only one column; name what separates them with --separator")
    names, header = _names(layout, first, separator, what, part.label, skipped + 1)
    width = len(names)
    names += part.constants
    body = lines[skipped + header :]
    samples = sniff.columns_of(body, names[:width], separator, layout.quoted)
    samples |= {name: [value] for name, value in part.constants.items()}
    columns = find_columns(layout, names, what if layout.header is None else part.label, samples)
    wanted = where.columns_of(layout.where)
    where.check_columns(layout.where, names, part.label)
    form = CsvForm(
        names.index(columns.user),
        names.index(columns.item),
        tuple(names.index(name) for name in columns.times),
        width,
        separator,
        header,
        layout.quoted,
        tuple(names),
        tuple(part.constants.values()),
        skipped,
        layout.comment,
        tuple(names.index(name) for name in wanted),
    )
    facts: dict[str, object] = {"separator": separator, "header": header}
    if skipped:
        facts["comment_lines"] = skipped
    return Found(form, columns, facts)


def _names(
    layout: Layout, first: str, separator: str, what: str, label: str, line: int
) -> tuple[list[str], bool]:
    """Return the names of a CSV file's columns, and whether its first line holds them."""
    try:
        fields = sniff.split(first, separator, layout.quoted)
    except csv.Error as error:  # a lone carriage return, or a field over 131,072 characters
        raise UserError(
            f"{label}, line {line}: not CSV ({error}); end lines with a line feed"
        ) from error
    if layout.header is False:
        return list(layout.names), False
    if layout.names:
        if len(fields) != len(layout.names):
            raise UserError(
                f"--columns: names {len(layout.names)} columns, but {what} has {len(fields)}; name "
                "each one, with _ for those that are not read"
            )
        if not any(re.search("[0-9]", field) for field in fields) and sniff.is_header(fields):
            known = [name for name in fields if name in layout.names]
            if known or len({sniff.plain(f) for f in fields} & _usual()) >= 2:
                raise UserError(
                    f"--columns: {what} has a header that names its columns; leave the flag out, "
                    "and name columns with --user_col, --item_col and --time_col"
                )
        return list(layout.names), False
    named = {layout.user, layout.item, layout.time} & set(fields)
    if not sniff.is_header(fields) and all(map(is_time, named)):
        if separator == " " and len(fields) > 2:
            what = f"{what} may be sequences of a user's items (--layout=sequences)"
        guess = ",".join(["user", "item", "_", "time"][: len(fields)] + ["_"] * (len(fields) - 4))
        raise UserError(
            f"{what}: no header, since its first line holds numbers or times; name its "
            f"{len(fields)} columns with --columns, such as --columns={guess}"
        )
    return fields, True


def _usual() -> set[str]:
    return {name for names in sniff.KNOWN.values() for name in names.split()}


def _suffix(part: Part) -> str:
    match = re.search(r"\.(csv|tsv|inter)\b", Path(part.label).name.lower())
    return match[0] if match else ""
