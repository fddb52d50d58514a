"""Read any file into one table of clicks.

Files are read fast by polars' streaming engine; a file with an error is read row by row (rows.py).
"""

import logging
from pathlib import Path
from typing import NamedTuple

import polars as pl

from data_prep import archives, columns, csv_rows, rows
from data_prep.forms import JsonForm, TextForm, text_form
from data_prep.settings import UserError
from data_prep.sources import Layout, Titles

logger = logging.getLogger(__name__)
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class Clicks(NamedTuple):
    """A table of clicks in input order, their unit of time, and the rows that were skipped.

    The table's columns are user and item (Categorical) and time (Int64).
    """

    table: pl.DataFrame
    time_unit: str
    bad: rows.BadRows


def read(path: Path, layout: Layout, on_bad_rows: str, folder: Path) -> Clicks:
    """Return the clicks of a file.

    folder: an empty folder for intermediate files, which grow with the file while memory does not.
    An id is a text of at least one character. Integer times are kept as they are; ISO date-times
    are converted to microseconds, as are fractional numbers, which are taken as seconds. Raise
    UserError for any problem with the file.
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
    """Return the path, or a link to it if polars would interpret the path as a pattern."""
    if not any(letter in str(path) for letter in "*?[]{}"):
        return path
    link = folder / "source"
    link.symlink_to(path.absolute())
    return link


def encode(clicks: pl.LazyFrame) -> pl.DataFrame:
    """Collect clicks with Categorical ids, made while the file is streamed: 16 bytes per click."""
    return clicks.with_columns(pl.col("user", "item").cast(pl.Categorical)).collect(
        engine="streaming"
    )


def is_good(clicks: pl.DataFrame) -> bool:
    """Return whether no id is null or empty and no time is null."""
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
    """Return the clicks of a CSV or JSON file. lines: its number of lines, 0 if unknown."""
    form = text_form(path, layout, label)
    sample = rows.sample_times(path, form)
    kind = columns.time_kind(sample)
    try:
        table = encode(scan_text(path, form, kind, sample))
        if len(table) and is_good(table) and _is_complete(path, form, len(table), lines):
            return Clicks(table, columns.UNITS[kind], rows.BadRows())
    except POLARS_ERRORS as error:
        logger.debug("%s: %s", label, error)
    logger.info("%s: has bad rows or unusual ones, reading it row by row", label)
    try:
        clicks, bad = rows.parse_rows(rows.text_rows(path, form), kind, label, on_bad_rows, folder)
    except columns.NotWhole:
        kind = "number"
        clicks, bad = rows.parse_rows(rows.text_rows(path, form), kind, label, on_bad_rows, folder)
    return Clicks(encode(clicks), columns.UNITS[kind], bad)


def _is_complete(path: Path, form: TextForm, count: int, lines: int) -> bool:
    """Return whether a file holds `count` rows, so that no open quote has swallowed any.

    If it has one row per line, counting lines is enough; if fields span lines, rows are counted.
    """
    if isinstance(form, JsonForm) or not form.quoted:
        return True
    expected = count + form.header
    lines = lines or archives.count_lines(path)
    return expected == lines or expected == csv_rows.count_rows(path, form)


def scan_text(path: Path, form: TextForm, kind: str, sample: list[str]) -> pl.LazyFrame:
    """Return a scan with columns user, item and time, null in a bad row.

    kind, sample: the kind and a sample of the times, see columns.py. Collecting the scan raises a
    polars error if the file cannot be read.
    """
    if isinstance(form, JsonForm):
        user, item, time = map(pl.col, form)
        clicks = pl.scan_ndjson(path, schema=dict.fromkeys(form, pl.String))
        intact = pl.lit(True)
    else:
        # polars accepts separators of one character: '::' is two ':' with an empty column between
        step = len(form.separator)
        names = [f"c{position}" for position in range(step * (form.width - 1) + 1)]
        clicks = pl.scan_csv(
            path,
            has_header=form.header,
            separator=form.separator[0],
            quote_char='"' if form.quoted else None,
            infer_schema=False,
            new_columns=names,
            glob=False,
        )
        user, item, time = (pl.col(names[step * n]) for n in (form.user, form.item, form.time))
        # every column has to be used: polars counts the fields of a row only if it needs all
        intact = pl.any_horizontal(pl.col(name).is_not_null() for name in names)
        for position, name in enumerate(names):
            if position % step:
                intact &= pl.col(name).is_null()
    checked = pl.when(intact).then(columns.time_expression(time, kind, sample))
    return clicks.select(user.alias("user"), item.alias("item"), checked.alias("time"))


def _read_parquet(path: Path, layout: Layout, label: str, on_bad_rows: str) -> Clicks:
    """Return the clicks of a Parquet file. Raise UserError."""
    try:
        frame = pl.scan_parquet(path, glob=False)
        schema = frame.collect_schema()
        names = columns.find_columns(layout, schema.names(), label)
        for name in names[:2]:
            if schema[name].is_nested() or schema[name] in (pl.Binary, pl.Object):
                raise UserError(
                    f"{label}: column {name!r} is of type {schema[name]}; expected text or numbers "
                    "as ids"
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
                    "correct the file or skip such rows with --on_bad_rows=skip"
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
    """Return a column's times as Int64, and their kind (see columns.py). Raise UserError."""
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
    """Return the titles of an archive's items, None if it has none.

    The columns are id and title, both text.
    """
    content = archives.read_member(path, titles.member)
    if content is None:
        return None
    lines = (
        line.split(titles.separator, 2) for line in content.decode(titles.encoding).splitlines()
    )
    pairs = [line[:2] for line in lines if len(line) > 1]
    table = pl.DataFrame(pairs, schema={"id": pl.String, "title": pl.String}, orient="row")
    return table.unique("id", keep="first")
