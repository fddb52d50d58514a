"""Raw files of clicks, and what is read from them."""

import io
import json

import numpy as np
import polars as pl
import pytest

from data_prep.settings import UserError

CLICK_ROWS = [("u1", "a", 30), ("u2", "b", 10), ("u1", "c", 20)]


def as_lines(separator, header, rows=CLICK_ROWS):
    """Return a header and rows as the text of a CSV file without quotes."""
    return "".join(separator.join(map(str, row)) + "\n" for row in [header, *rows])


def as_json(rows=CLICK_ROWS, keys=("user", "item", "time")):
    """Return rows as the text of a file of JSON lines."""
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


def as_parquet(frame):
    """Return a table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def rows_of(clicks):
    """Return clicks that were read as rows (user, item, time), with ids as text."""
    return clicks.table.with_columns(pl.col("user", "item").cast(pl.String)).rows()


def error_of(function, *args, **kwargs):
    """Return the message, of one line, of the UserError that a call must raise."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def random_clicks(seed=0, users=30, items=25, clicks=600):
    """Return unsorted clicks (user, item, time) with integer ids and many equal times."""
    rng = np.random.default_rng(seed)
    columns = (
        rng.integers(1, users, clicks),
        rng.integers(1, items, clicks) * 7,
        rng.integers(0, 40, clicks),
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


def write_csv(path, rows):
    """Write clicks with a header; return the path."""
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    return path


def contents(folder):
    """Return the bytes of each file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
