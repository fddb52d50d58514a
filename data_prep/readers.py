"""Read any files into one table of clicks.

Files are read fast by polars' streaming engine; a file with an error is read row by row (rows.py).
"""

import contextlib
import csv
import logging
from pathlib import Path
from typing import Any

import polars as pl

from data_prep import archives, csv_rows, inputs, rows, sniff, times, where
from data_prep.catalogue.entry import Layout, Titles
from data_prep.forms import CsvForm, Found, JsonForm, TextForm, text_form
from data_prep.inputs import Part
from data_prep.settings import UserError
from data_prep.tables import POLARS_ERRORS, Clicks, encode, is_good, read_tables
from data_prep.times import NotWhole, TimeForm

logger = logging.getLogger(__name__)
RAW = "\0"  # begins the names of columns as they are in the file


def read(path: Path, layout: Layout, on_bad_rows: str, folder: Path) -> Clicks:
    """Return the clicks of a file, or of the files of a folder or pattern.

    folder: an empty folder for intermediate files, which grow with the file while memory does not.
    An id is a text of at least one character. Integer times are kept as they are; dates are
    converted to microseconds, as are fractional numbers, whose unit follows from their size. Raise
    UserError for any problem with the file.
    """
    if layout.time_format:
        times.check_format(layout.time_format)
    parts = inputs.parts(path, layout, folder)
    is_table = parts[0].layout.kind in ("parquet", "ipc")
    clicks = (read_tables if is_table else _read_texts)(parts, on_bad_rows, folder)
    label = parts[0].label if len(parts) == 1 else str(path)
    if clicks.bad.count:
        logger.warning(
            "%s: skipped %d bad rows: %s", label, clicks.bad.count, "; ".join(clicks.bad.first)
        )
    if not len(clicks.table):
        skipped = (
            f"; {clicks.bad.count} bad rows were skipped, such as {clicks.bad.first[0]}"
            if clicks.bad.count
            else ""
        )
        if clicks.excluded:
            skipped += f"; {clicks.excluded} rows do not meet --where={layout.where!r}"
        raise UserError(f"{label}: holds no clicks{skipped}; expected rows of user, item and time")
    return clicks


def _read_texts(parts: list[Part], on_bad_rows: str, folder: Path) -> Clicks:
    """Return the clicks of CSV or JSON files, all with times of the form of the first."""
    found = [text_form(part) for part in parts]
    first = rows.sample(parts[0].path, found[0].form)
    time = times.FILE_ORDER
    texts = [values[2] or "" for values in first]
    if found[0].columns.times:
        time = times.form_of(texts, parts[0].layout.time_format)
    names = where.columns_of(parts[0].layout.where)
    samples = {name: [values[3 + n] for values in first] for n, name in enumerate(names)}
    if len({one.columns[:3] for one in found}) > 1:
        other = next(n for n, one in enumerate(found) if one.columns[:3] != found[0].columns[:3])
        raise UserError(
            f"{parts[other].label}: its columns are {', '.join(found[other].columns.names)}, but "
            f"those of {parts[0].label} are {', '.join(found[0].columns.names)}; expected the same"
        )
    try:
        return _read_as(parts, found, time, texts, samples, on_bad_rows, folder)
    except NotWhole:
        time = times.form_of(texts, may_be_whole=False)
        return _read_as(parts, found, time, texts, samples, on_bad_rows, folder)


def _read_as(
    parts: list[Part],
    found: list[Found],
    time: TimeForm,
    texts: list[str],
    samples: dict[str, list[str | None]],
    on_bad_rows: str,
    folder: Path,
) -> Clicks:
    """Return the clicks of text files with times of a form. Raise NotWhole if they differ."""
    bad = rows.BadRows()
    condition = rows.Condition(parts[0].layout.where, samples)
    tables = []
    for number, (part, (form, _, _)) in enumerate(zip(parts, found, strict=True)):
        scratch = folder / f"rows-{number}"
        table, wrong = _read_text(part, form, time, condition, on_bad_rows, scratch)
        bad.count += wrong.count
        places = wrong.first if len(parts) == 1 else [f"{part.path.name}, {w}" for w in wrong.first]
        bad.first = [*bad.first, *places][: rows.SHOWN]
        tables.append(table)
    columns = found[0].columns
    facts: dict[str, Any] = {
        "files": len(parts),
        "columns": {"user": columns.user, "item": columns.item, "time": list(columns.times)},
        **found[0].facts,
    }
    if time.kind in ("date", "offset"):
        facts["time_format"] = time.format
    table = tables[0] if len(tables) == 1 else pl.concat(tables)
    return Clicks(table, time.stored_unit, bad, condition.excluded, facts, columns.notices)


def _read_text(
    part: Part,
    form: TextForm,
    time: TimeForm,
    condition: rows.Condition,
    on_bad_rows: str,
    folder: Path,
) -> tuple[pl.DataFrame, rows.BadRows]:
    """Return the clicks of a CSV or JSON file, and its bad rows."""
    is_slow = form.style != "lines" if isinstance(form, JsonForm) else not isinstance(form, CsvForm)
    try:
        if not is_slow:
            table = encode(scan_text(part.path, form, time, condition))
            count = len(table)
            if condition.text:
                table = table.filter(pl.col("keep")).drop("keep")
            if count and is_good(table) and _is_complete(part, form, count):
                condition.excluded += count - len(table)
                return table, rows.BadRows()
    except POLARS_ERRORS as error:
        logger.debug("%s: %s", part.label, error)
    if not is_slow:
        logger.info("%s: has bad rows or unusual ones, reading it row by row", part.label)
    unit = "element" if isinstance(form, JsonForm) and form.style == "array" else "line"
    lines = rows.text_rows(part.path, form)
    clicks, bad = rows.parse_rows(lines, time, condition, part.label, on_bad_rows, folder, unit)
    return encode(clicks), bad


def _is_complete(part: Part, form: TextForm, count: int) -> bool:
    """Return whether a file holds `count` rows, so that none is lost, as by an open quote.

    If it has one row per line, counting lines is enough; if fields span lines, rows are counted.
    """
    lines = part.lines or archives.count_lines(part.path)
    if isinstance(form, JsonForm) and form.events:
        user = _json_scan(part.path, form)[0].select(pl.col(RAW + form.user).count())
        count = user.collect(engine="streaming").item()  # of objects, not of their events
    if not isinstance(form, CsvForm):
        return count == lines or count == archives.count_lines(part.path, blank=False)
    expected = count + form.header
    if expected + form.skipped == lines:
        return True
    if form.quoted or form.comment:
        return expected == csv_rows.count_rows(part.path, form)
    return False


def scan_text(
    path: Path, form: TextForm, time: TimeForm, condition: rows.Condition
) -> pl.LazyFrame:
    """Return a scan with columns user, item and time, null in a bad row.

    With a condition there is also `keep`, whether a row meets it. Collecting the scan raises a
    polars error if the file cannot be read.
    """
    intact = pl.lit(True)
    if isinstance(form, JsonForm):
        frame, held = _json_scan(path, form)
        if held:
            frame = frame.explode(RAW + form.events).unnest(RAW + form.events)
            frame = frame.rename({key: RAW + key for key in held})
        user, item, *moments = (pl.col(RAW + key) for key in (form.user, form.item, *form.times))
        conditions = [pl.col(RAW + key).alias(key) for key in form.where]
    elif isinstance(form, CsvForm):
        # polars accepts separators of one character: '::' is two ':' with an empty column between
        step = len(form.separator)
        names = [f"{RAW}{position}" for position in range(step * (form.width - 1) + 1)]
        frame = pl.scan_csv(
            path,
            has_header=form.header,
            skip_lines=form.skipped,
            comment_prefix=form.comment or None,
            separator=form.separator[0],
            quote_char='"' if form.quoted and step == 1 else None,
            infer_schema=False,
            new_columns=names,
            glob=False,
        )

        def column(position: int) -> pl.Expr:
            if position < form.width:
                return pl.col(names[step * position])
            return pl.lit(form.constants[position - form.width])

        user, item, *moments = map(column, (form.user, form.item, *form.times))
        conditions = [column(position).alias(form.names[position]) for position in form.where]
        # every column has to be used: polars counts the fields of a row only if it needs all
        intact = pl.any_horizontal(pl.col(name).is_not_null() for name in names)
        for position, name in enumerate(names):
            if position % step:
                intact &= pl.col(name).is_null()
    else:
        raise AssertionError("other forms are read row by row")
    moment = pl.lit(0, pl.Int64)
    if moments:
        texts = moments[0] if len(moments) == 1 else pl.concat_str(moments, separator=" ")
        moment = time.expression(texts)
    clicks = [user.alias("user"), item.alias("item"), pl.when(intact).then(moment).alias("time")]
    if not condition.text:
        return frame.select(clicks)
    frame = frame.with_columns(conditions).with_columns(where.typed(condition.samples))
    return frame.select(*clicks, condition.expression().alias("keep"))


def _json_scan(path: Path, form: JsonForm) -> tuple[pl.LazyFrame, list[str]]:
    """Return a scan of a file's objects, and the keys of the events that they hold.

    The columns are named as the keys, with RAW before.
    """
    fixed = dict(form.constants)
    keys = dict.fromkeys((form.user, form.item, *form.times, *form.where))
    own = [key for key in keys if key not in fixed]
    schema: dict[str, Any] = dict.fromkeys(own, pl.String)
    held = [key for key in own if key not in form.outer] if form.events else []
    if held:
        schema = {key: pl.String for key in own if key not in held}
        schema[form.events] = pl.List(pl.Struct(dict.fromkeys(held, pl.String)))
    frame = pl.scan_ndjson(path, schema=schema).select(
        *(pl.col(key).alias(RAW + key) for key in schema),
        *(pl.lit(value).alias(RAW + key) for key, value in fixed.items()),
    )
    return frame, held


def read_titles(path: Path, titles: Titles) -> pl.DataFrame | None:
    """Return the titles of an archive's items, None if it has none.

    The columns are id and title, both text.
    """
    content = archives.read_member(path, titles.member)
    if content is None:
        return None
    pairs = []
    for line in content.decode(titles.encoding, "replace").splitlines():
        with contextlib.suppress(csv.Error):  # a title is worth no error
            row = sniff.split(line, titles.separator, titles.quoted)
            if len(row) > titles.column:
                pairs.append((row[0], row[titles.column]))
    table = pl.DataFrame(pairs, schema={"id": pl.String, "title": pl.String}, orient="row")
    return table.unique("id", keep="first")
