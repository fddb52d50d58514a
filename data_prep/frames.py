"""Store the clicks of a DataFrame as a file, which is then prepared like any other."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_prep import atomic
from data_prep.catalogue.entry import Layout
from data_prep.columns import FEW, find_columns
from data_prep.settings import UserError
from data_prep.sources import user_folder
from data_prep.where import check_columns, columns_of

logger = logging.getLogger(__name__)

AS_ARRAYS = "iufbM"  # kinds of NumPy types whose columns are converted without Python objects


def is_frame(data: Any) -> bool:
    """Return whether this is a DataFrame of polars, or one with the interface of pandas."""
    return isinstance(data, pl.DataFrame | pl.LazyFrame) or (
        hasattr(data, "columns") and hasattr(data, "iloc")
    )


def store(
    data: Any,
    cache_dir: str | Path = "",
    user_col: str = "",
    item_col: str = "",
    time_col: str = "",
    where: str = "",
) -> Path:
    """Write the columns of a DataFrame that are read as Parquet, and return the file.

    These are user, item and time, and those of the condition `where`.

    The file is named by its content, so that the same clicks are prepared once. data: a polars
    DataFrame or LazyFrame, or a pandas DataFrame, whose index is ignored. cache_dir: as in
    `prepare`. Raises UserError if a column is not found or cannot be stored.
    """
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    layout = Layout(kind="parquet", user=user_col, item=item_col, time=time_col)
    names = [str(name) for name in data.columns]
    is_polars = isinstance(data, pl.DataFrame)
    head = data.head(FEW)
    samples = {
        name: [str(v) for v in (head[name] if is_polars else head.iloc[:, n].tolist())]
        for n, name in enumerate(names)
    }
    columns = find_columns(layout, names, "the DataFrame", samples)
    check_columns(where, names, "the DataFrame")
    for notice in columns.notices:
        logger.warning("the DataFrame: %s", notice)
    chosen = tuple(dict.fromkeys((*columns.names, *columns_of(where))))
    table = as_polars(data, chosen)
    content = io.BytesIO()
    try:
        table.write_parquet(content)
    except pl.exceptions.PolarsError as error:
        types = ", ".join(f"{name} {kind}" for name, kind in table.schema.items())
        raise UserError(
            f"the DataFrame: its columns have types that cannot be stored ({types}); "
            "expected numbers, texts, or dates for the time"
        ) from error
    digest = hashlib.sha256(content.getbuffer()).hexdigest()[:12]
    cache = user_folder(cache_dir, "TTT4REC_CACHE_DIR", "prepared")
    path = cache / "frames" / f"frame-{digest}.parquet"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic.file(path) as file:
                file.write(content.getbuffer())
        except OSError as error:
            raise UserError(
                f"cache_dir: {path} cannot be written ({error.strerror}); name another cache_dir"
            ) from error
    return path


def as_polars(data: Any, chosen: Sequence[str] | None = None) -> pl.DataFrame:
    """Return a DataFrame of polars or pandas as one of polars, without the index of pandas.

    chosen: the columns; by default all. Raises UserError for a column of values of several types.
    """
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    names = [str(name) for name in data.columns]
    chosen = names if chosen is None else chosen
    if isinstance(data, pl.DataFrame):
        return data.select(chosen)
    return pl.DataFrame([_series(name, data.iloc[:, names.index(name)]) for name in chosen])


def _series(name: str, column: Any) -> pl.Series:
    """Return a column of a pandas DataFrame."""
    values = column.to_numpy()
    if isinstance(values, np.ndarray) and values.dtype.kind in AS_ARRAYS:
        return pl.Series(name, values)
    try:
        return pl.Series(name, column.tolist())
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"the DataFrame: column {name!r} holds values of several types ({error}); "
            "convert it to one type"
        ) from error
