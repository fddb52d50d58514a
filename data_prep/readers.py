"""Any file -> one table of clicks. Fast by polars' streaming engine; row by row (rows.py) where something is wrong with it."""

import csv
import dataclasses
import itertools
import json
import logging
from pathlib import Path
from typing import NamedTuple

import polars as pl

from data_prep import archives, columns, rows
from data_prep.settings import UserError
from data_prep.sources import Layout, Titles

logger = logging.getLogger(__name__)
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class Clicks(NamedTuple):
    """table: user and item (Categorical), time (Int64), in input order; the unit of time; the rows that were skipped."""

    table: pl.DataFrame
    time_unit: str
    bad: rows.BadRows


def read(path: Path, layout: Layout, on_bad_rows: str, folder: Path) -> Clicks:
    """The clicks of a file. folder: an empty one for intermediate files, which may grow with the file; memory does not.

    An id is a text of one character or more. Integer times are kept as they are; ISO date-times
    become microseconds, as do fractional numbers (taken for seconds). Raises UserError, of one
    line, for whatever is
    wrong with the file.
    """
    label = f"{path}: {layout.member}" if layout.member else str(path)
    with archives.readable(path):
        empty = path.stat().st_size == 0
        with open(path, "rb"):
            pass
    if empty:
        raise UserError(f"{path}: is empty; expected clicks")
    lines = archives.check_gzip(path)
    source = (
        archives.spool(path, layout.member, folder) if layout.member else _plain_path(path, folder)
    )
    if layout.kind == "parquet":
        clicks = _read_parquet(source, layout, label, on_bad_rows)
    else:
        clicks = _read_text(source, layout, label, on_bad_rows, folder, lines)
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
        raise UserError(f"{label}: holds no clicks{skipped}; expected rows of user, item and time")
    return clicks


def _plain_path(path: Path, folder: Path) -> Path:
    """The path, or a link to it where polars would take its name for a pattern."""
    if not any(letter in str(path) for letter in "*?[]{}"):
        return path
    link = folder / "source"
    link.symlink_to(path.absolute())
    return link


def encode(clicks: pl.LazyFrame) -> pl.DataFrame:
    """Text ids become Categorical while the file streams by: memory holds 16 bytes a click."""
    return clicks.with_columns(pl.col("user", "item").cast(pl.Categorical)).collect(
        engine="streaming"
    )


def is_good(clicks: pl.DataFrame) -> bool:
    """Whether no id is null or empty and no time is null."""
    if any(series.null_count() for series in clicks):
        return False
    is_empty = (pl.col("user", "item").unique().cast(pl.String) == "").any()
    return not any(clicks.lazy().select(is_empty).collect(engine="streaming").row(0))


def _read_text(
    path: Path,
    layout: Layout,
    label: str,
    on_bad_rows: str,
    folder: Path,
    lines: int,
) -> Clicks:
    """The clicks of a CSV or JSON file. lines: how many it has where that is known, else 0."""
    placed, width = _placed(path, layout, label)
    sample = rows.sample_times(path, placed, width)
    kind = columns.time_kind(sample)
    try:
        table = encode(_scan_text(path, placed, width, kind, sample))
        if len(table) and is_good(table) and _is_whole(path, placed, width, len(table), lines):
            return Clicks(table, columns.UNITS[kind], rows.BadRows())
    except POLARS_ERRORS as error:
        logger.debug("%s: %s", label, error)
    logger.info("%s: not read at once, looking at each row", label)
    try:
        clicks, bad = rows.parse_rows(
            rows.text_rows(path, placed, width), kind, label, on_bad_rows, folder
        )
    except columns.NotWhole:
        kind = "number"
        clicks, bad = rows.parse_rows(
            rows.text_rows(path, placed, width), kind, label, on_bad_rows, folder
        )
    return Clicks(encode(clicks), columns.UNITS[kind], bad)


def _is_whole(path: Path, layout: Layout, width: int, count: int, lines: int) -> bool:
    """Whether `count` rows are all that a file holds, so that no open quote has swallowed some.

    They are if there is one a line. Where fields span lines, each of these has to be looked at.
    """
    if layout.kind == "json" or not layout.quoted:
        return True
    expected = count + layout.header
    lines = lines or archives.count_lines(path)
    return expected == lines or expected == rows.count_rows(path, layout, width)


def _placed(path: Path, layout: Layout, label: str) -> tuple[Layout, int]:
    """The layout with its columns found, and how many the file has: positions in CSV, keys in JSON."""
    if layout.kind == "csv" and not layout.header:
        return layout, layout.columns
    names = _json_names(path, label) if layout.kind == "json" else _csv_names(path, layout, label)
    found = columns.find_columns(layout, names, label)
    places = found if layout.kind == "json" else [names.index(name) for name in found]
    return dataclasses.replace(
        layout, **dict(zip(("user", "item", "time"), places, strict=True))
    ), len(names)


def _csv_names(path: Path, layout: Layout, label: str) -> list[str]:
    with archives.readable(path), archives.open_text(path) as stream:
        first = stream.readline(1 << 20)
    try:
        text = first.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{label}, line 1: not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from error
    if not text:
        raise UserError(
            f"{label}: is empty or begins with an empty line; expected a header that names the columns"
        )
    if not layout.quoted:
        return text.split(layout.separator)
    try:
        return next(csv.reader([text], delimiter=layout.separator))
    except csv.Error as error:  # a lone carriage return, or a field of more than 131,072 letters
        raise UserError(
            f"{label}, line 1: not CSV ({error}); end lines with a line feed"
        ) from error


def _json_names(path: Path, label: str) -> list[str]:
    """The keys of a file's objects, as far as the first thousand lines show; a bad line is for rows.py to report."""
    names = {}
    with archives.readable(path), archives.open_text(path) as stream:
        for line in itertools.islice(stream, 1000):
            try:
                found = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                names.update(found)
    if names:
        return list(names)
    raise UserError(
        f"{label}: holds no JSON object in its first 1000 lines; expected one a line, in UTF-8"
    )


def _scan_text(
    path: Path, layout: Layout, width: int, kind: str, sample: list[str]
) -> pl.LazyFrame:
    """Columns user, item and time; null where a row is not as it should be. Raises a polars error where it cannot be read."""
    if layout.kind == "json":
        names = layout.user, layout.item, layout.time
        user, item, time = (pl.col(name) for name in names)
        clicks = pl.scan_ndjson(path, schema=dict.fromkeys(names, pl.String))
        intact = pl.lit(True)
    else:
        # a separator '::' is two ':' with nothing between
        step = len(layout.separator)
        names = [f"c{place}" for place in range(step * (width - 1) + 1)]
        clicks = pl.scan_csv(
            path,
            has_header=layout.header,
            separator=layout.separator[0],
            quote_char='"' if layout.quoted else None,
            infer_schema=False,
            new_columns=names,
            glob=False,
        )
        user, item, time = (
            pl.col(names[step * place]) for place in (layout.user, layout.item, layout.time)
        )
        # that each column is looked at matters: polars counts the fields of a row only if it needs
        # them all
        intact = pl.any_horizontal(pl.col(name).is_not_null() for name in names)
        for name in (name for place, name in enumerate(names) if place % step):
            intact &= pl.col(name).is_null()
    time = pl.when(intact).then(columns.time_expression(time, kind, sample))
    return clicks.select(user.alias("user"), item.alias("item"), time.alias("time"))


def _read_parquet(path: Path, layout: Layout, label: str, on_bad_rows: str) -> Clicks:
    try:
        frame = pl.scan_parquet(path, glob=False)
        schema = frame.collect_schema()
        names = columns.find_columns(layout, schema.names(), label)
        for name in names[:2]:
            if schema[name].is_nested() or schema[name] in (pl.Binary, pl.Object):
                raise UserError(
                    f"{label}: column {name!r} is of type {schema[name]}; expected text or numbers as ids"
                )
        time, kind = _parquet_time(frame, names[2], schema[names[2]], label)
        user, item = (pl.col(name).cast(pl.String) for name in names[:2])
        clicks = frame.select(user.alias("user"), item.alias("item"), time.alias("time"))
        table = encode(clicks)
        bad = rows.BadRows()
        if not is_good(table):
            good = pl.all_horizontal(
                pl.col("user", "item").fill_null("") != "", pl.col("time").is_not_null()
            )
            wrong = clicks.with_row_index("row").filter(~good)
            first = wrong.head(rows.SHOWN).collect(engine="streaming").rows(named=True)
            bad.first = [
                f"row {r['row'] + 1}: user {r['user']!r}, item {r['item']!r}, time {r['time']!r}"
                for r in first
            ]
            if on_bad_rows == "error":
                raise UserError(
                    f"{label}, {bad.first[0]}; expected no empty ids and {rows.EXPECTED_TIME}; "
                    "mend the file or skip such rows with --on_bad_rows=skip"
                )
            bad.count = wrong.select(pl.len()).collect(engine="streaming").item()
            table = encode(clicks.filter(good))
    except POLARS_ERRORS as error:
        raise UserError(
            f"{label}: not a readable Parquet file ({str(error).splitlines()[0]}); write it again"
        ) from error
    return Clicks(table, columns.UNITS[kind], bad)


def _parquet_time(
    frame: pl.LazyFrame, name: str, dtype: pl.DataType, label: str
) -> tuple[pl.Expr, str]:
    """A column's times as Int64, and their kind (see columns.py)."""
    column = pl.col(name)
    if dtype.is_integer():
        return column.cast(pl.Int64, strict=False), "integer"
    if dtype.is_float() or dtype.is_decimal():
        return columns.time_expression(column, "number", ()), "number"
    if dtype in (pl.Datetime, pl.Date):
        return column.cast(pl.Datetime("us")).dt.epoch("us"), "iso"
    if dtype == pl.String:
        sample = (
            frame.select(column.drop_nulls().head(1000))
            .collect(engine="streaming")
            .to_series()
            .to_list()
        )
        kind = columns.time_kind(sample)
        return columns.time_expression(column, kind, sample), kind
    raise UserError(f"{label}: column {name!r} is of type {dtype}, expected {rows.EXPECTED_TIME}")


def read_titles(path: Path, titles: Titles) -> pl.DataFrame | None:
    """The titles of an archive's items, columns id and title, both text; None if the archive has none."""
    content = archives.read_member(path, titles.member)
    if content is None:
        return None
    lines = (
        line.split(titles.separator, 2) for line in content.decode(titles.encoding).splitlines()
    )
    found = [line[:2] for line in lines if len(line) > 1]
    return pl.DataFrame(found, schema={"id": pl.String, "title": pl.String}, orient="row").unique(
        "id", keep="first"
    )
