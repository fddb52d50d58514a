"""Read clicks from files of typed columns: Parquet and Arrow IPC."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl

from data_prep import times, where
from data_prep.columns import Columns, find_columns, may_be_times
from data_prep.inputs import Part
from data_prep.rows import SHOWN, BadRows
from data_prep.settings import UserError, first_line
from data_prep.times import EXPECTED, TimeForm

POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
EXACT = 2**53  # the largest whole number below which floats hold all
FORMATS = {"parquet": "Parquet", "ipc": "Arrow IPC"}


class Clicks(NamedTuple):
    """A table of clicks in input order, their unit of time, and what happened to other rows.

    The table's columns are user and item (Categorical) and time (Int64). bad: the rows that were
    skipped. excluded: the number of rows that do not meet the condition. facts: how the file was
    read, for the manifest. notices: what a user should look at.
    """

    table: pl.DataFrame
    time_unit: str
    bad: BadRows
    excluded: int = 0
    facts: Mapping[str, Any] = MappingProxyType({})
    notices: tuple[str, ...] = ()


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


def read_tables(parts: list[Part], on_bad_rows: str, folder: Path) -> Clicks:
    """Return the clicks of Parquet or Arrow IPC files. Raise UserError.

    folder: unused, as in the reader of texts.
    """
    layout = parts[0].layout
    label = parts[0].label if len(parts) == 1 else f"{parts[0].path.parent}"
    paths = [part.path for part in parts]
    hive = any(part.constants for part in parts)
    scan = pl.scan_parquet if layout.kind == "parquet" else pl.scan_ipc
    try:
        frame = scan(paths, glob=False, hive_partitioning=hive)
        schema = frame.collect_schema()
        flat = [name for name, kind in schema.items() if not kind.is_nested()]
        samples = _samples(frame, may_be_times(layout, flat))
        columns = find_columns(layout, schema.names(), label, samples)
        for name in (columns.user, columns.item):
            if schema[name].is_nested() or schema[name] in (pl.Binary, pl.Object):
                raise UserError(
                    f"{label}: column {name!r} is of type {schema[name]}; expected text or numbers "
                    "as ids"
                )
        where.check_columns(layout.where, schema.names(), label)
        excluded = 0
        if layout.where:
            total = frame.select(pl.len()).collect(engine="streaming").item()
            frame = _that_meet(frame, layout.where)
            excluded = total - frame.select(pl.len()).collect(engine="streaming").item()
        time, form = _time(frame, columns, schema, layout.time_format, label)
        user, item = (_id(name, schema[name]) for name in (columns.user, columns.item))
        lost = _lost_digits(frame, columns, schema)
        clicks = frame.select(user.alias("user"), item.alias("item"), time.alias("time"))
        table = encode(clicks)
        bad = BadRows()
        if not is_good(table):
            bad = _bad_rows(frame, clicks, columns, label, on_bad_rows)
            table = encode(clicks.filter(_GOOD))
    except POLARS_ERRORS as error:
        raise UserError(
            f"{label}: not a readable {FORMATS[layout.kind]} file ({first_line(error)}); write it "
            "again"
        ) from error
    facts = {
        "files": len(parts),
        "columns": {"user": columns.user, "item": columns.item, "time": list(columns.times)},
    }
    return Clicks(table, form.stored_unit, bad, excluded, facts, (*columns.notices, *lost))


_GOOD = pl.all_horizontal(pl.col("user", "item").fill_null("") != "", pl.col("time").is_not_null())


def _samples(frame: pl.LazyFrame, names: list[str]) -> dict[str, list[str]]:
    """Return the first values of columns as text."""
    if not names:
        return {}
    head = frame.select(pl.col(names).cast(pl.String, strict=False)).head(1000)
    return {name: s.drop_nulls().to_list() for name, s in head.collect().to_dict().items()}


def _that_meet(frame: pl.LazyFrame, condition: str) -> pl.LazyFrame:
    """Return the rows that meet a condition. Raise UserError if it does not fit the columns."""
    kept = frame.filter(where.parse(condition).fill_null(False))
    try:
        kept.head(1).collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise where.condition_error(condition, error) from error
    return kept


def _id(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        text = column.fill_nan(None).cast(pl.String)
        return pl.when(whole == column).then(whole.cast(pl.String)).otherwise(text)
    return column.cast(pl.String)


def _lost_digits(frame: pl.LazyFrame, columns: Columns, schema: pl.Schema) -> list[str]:
    """Return notices about ids that have lost digits, since they were stored as floats."""
    names = [name for name in (columns.user, columns.item) if schema[name].is_float()]
    if not names:
        return []
    largest = frame.select(pl.col(names).abs().max()).collect(engine="streaming").row(0)
    return [
        f"the ids in column {name} are floating-point numbers of more than 15 digits, so that "
        "different ids may have become one; write them as whole numbers or text"
        for name, value in zip(names, largest, strict=True)
        if value is not None and value > EXACT
    ]


def _bad_rows(
    frame: pl.LazyFrame, clicks: pl.LazyFrame, columns: Columns, label: str, on_bad_rows: str
) -> BadRows:
    """Return the rows with a null, or raise UserError about the first."""
    bad = BadRows()
    raw = frame.select(pl.col(columns.names).cast(pl.String, strict=False).name.prefix("raw "))
    wrong = pl.concat([clicks, raw], how="horizontal").with_row_index("row").filter(~_GOOD)
    first = wrong.head(SHOWN).collect(engine="streaming").rows(named=True)
    bad.first = [
        f"row {r['row'] + 1}: user {r['user']!r}, item {r['item']!r}, time "
        f"{' '.join(str(r['raw ' + name]) for name in columns.times)!r}"
        for r in first
    ]
    if on_bad_rows == "error":
        raise UserError(
            f"{label}, {bad.first[0]}; expected no empty ids and {EXPECTED}; "
            "correct the file or skip such rows with --on_bad_rows=skip"
        )
    bad.count = wrong.select(pl.len()).collect(engine="streaming").item()
    return bad


def _time(
    frame: pl.LazyFrame, columns: Columns, schema: pl.Schema, given: str, label: str
) -> tuple[pl.Expr, TimeForm]:
    """Return the times as Int64, and their form. Raise UserError."""
    if not columns.times:
        return pl.lit(0, pl.Int64), times.FILE_ORDER
    name = columns.times[0]
    column = pl.col(name)
    dtype = schema[name]
    if len(columns.times) > 1:
        column = pl.concat_str(pl.col(columns.times).cast(pl.String), separator=" ")
        dtype = pl.String()
    if dtype.is_integer():
        return column.cast(pl.Int64, strict=False), TimeForm("integer")
    if dtype.is_float() or dtype.is_decimal():
        return _number_time(frame, column)
    if dtype in (pl.Datetime, pl.Date):
        return column.cast(pl.Datetime("us")).dt.epoch("us"), TimeForm("date")
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
        sample = frame.select(column.drop_nulls().head(1000)).collect(engine="streaming")
        form = times.form_of(sample.to_series().to_list(), given)
        if form.kind != "integer":
            return form.expression(column), form
        whole = column.str.replace(r"\.0*$", "")
        if frame.select(_loses(column, form.expression(whole))).collect(engine="streaming").item():
            form = times.form_of(sample.to_series().to_list(), may_be_whole=False)
            return form.expression(column), form
        return form.expression(whole), form
    raise UserError(f"{label}: column {name!r} is of type {dtype}, expected {EXPECTED}")


def _loses(column: pl.Expr, converted: pl.Expr) -> pl.Expr:
    """Return whether some texts are numbers with a fraction, which the conversion loses."""
    return (converted.is_null() & column.cast(pl.Float64, strict=False).is_not_null()).any()


def _number_time(frame: pl.LazyFrame, column: pl.Expr) -> tuple[pl.Expr, TimeForm]:
    """Return the times of a column of floats or decimals: integers if all are whole."""
    number = column.cast(pl.Float64, strict=False)
    has_fraction = (number.is_finite() & (column != column.cast(pl.Int64, strict=False))).any()
    if not frame.select(has_fraction).collect(engine="streaming").item():
        return column.cast(pl.Int64, strict=False), TimeForm("integer")
    values = frame.select(number.filter(number.is_finite()).head(1000)).collect(engine="streaming")
    form = TimeForm("number", times.unit_of(values.to_series().to_list()))
    return times.number_expression(number, times.UNITS[form.unit][1]), form
