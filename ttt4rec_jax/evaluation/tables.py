"""Recommendations and scores of any recommender: a file or a DataFrame, as users and items of ours.

Imports no JAX.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from data_prep.columns import KNOWN, plain
from data_prep.errors import UserError, first_line
from data_prep.frames import as_polars, is_frame

SCORES = "score prediction pred predictedrating predictedscore weight estimate relevance rating"
RANKS = "rank ranking position pos"
CATEGORIES = "category categories genre genres"
FORMATS = (
    ".parquet, .csv, .tsv, .jsonl, .ndjson, .arrow, .ipc, .feather (text files also .gz, .zst)"
)
IPC = (".arrow", ".ipc", ".feather")


class Rows(NamedTuple):
    """Rows of a table of recommendations or scores, as numbers of users and items.

    table: user and item (Int64, null if the id is not in the data), and key (Float64): the higher,
    the better. unknown_users: the number of different users that are not in the data.
    unknown_items: the number of rows whose item is not in the data. examples: unknown ids. notes:
    what a user should know about how the table was read.
    """

    table: pl.DataFrame
    unknown_users: int
    unknown_items: int
    examples: dict[str, str]
    notes: tuple[str, ...] = ()


def read_rows(source: Any, what: str, ids: dict[str, pl.Series], needs_score: bool) -> Rows:
    """Read a table of user, item, and score or rank, or of a user's items in order.

    Args:
        source: A path, or a DataFrame of polars or pandas.
        what: The flag or argument, for errors.
        ids: The original ids of "user" and "item"; user u is at index u, item i at index i - 1.
        needs_score: Whether a rank is not enough.

    Raises UserError if the table cannot be read, or a rank or score is missing or not a number.
    """
    table = as_polars(source) if is_frame(source) else _read(source, what)
    columns = _columns(table.columns)
    for role in ("user", "item"):
        if role not in columns:
            raise _missing(what, role, table.columns)
    if isinstance(table.schema[columns["item"]], pl.List):
        table, columns = _exploded(table, columns)
    if not ("score" in columns or ("rank" in columns and not needs_score)):
        raise _missing(what, "score" if needs_score else "rank or score", table.columns)
    keys = {role: _numbers(table, columns[role], what) for role in columns if role in ORDERS}
    users, unknown_users = _numbered(table[columns["user"]], ids["user"])
    items, unknown_items = _numbered(table[columns["item"]], ids["item"])
    key, notes = _key(users, keys, needs_score)
    examples = {"user": unknown_users, "item": unknown_items}
    return Rows(
        pl.DataFrame({"user": users, "item": items + 1, "key": key}),
        len(unknown_users),
        items.null_count(),
        {role: str(of[0]) for role, of in examples.items() if len(of)},
        notes,
    )


ORDERS = ("score", "rank")


def _columns(names: Sequence[str]) -> dict[str, str]:
    """Return {role: column} of the columns with usual names."""
    known = {
        "user": KNOWN["user"],
        "item": f"{KNOWN['item']} items itemids",
        "category": CATEGORIES,
        "score": SCORES,
        "rank": RANKS,
    }
    by_name = {plain(name): name for name in reversed(names)}
    found = {
        role: [by_name[name] for name in texts.split() if name in by_name]
        for role, texts in known.items()
    }
    return {role: columns[0] for role, columns in found.items() if columns}


def _missing(
    what: str, role: str, names: Sequence[str], expected: str = "user, item, and rank or score"
) -> UserError:
    return UserError(
        f"{what}: no column of the {role}; its columns are {', '.join(names[:20]) or 'none'}; "
        f"expected {expected}"
    )


def _read(source: Any, what: str) -> pl.DataFrame:
    """Return the table in a file; the columns of a text file are texts. Raises UserError."""
    if not isinstance(source, str | Path):
        raise UserError(f"{what}: {type(source).__name__}, expected a path or a DataFrame")
    path = Path(source)
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "not there"
        raise UserError(f"{what}: {path} is {problem}; expected a file in {FORMATS}")
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    try:
        if name.endswith(".parquet"):
            return pl.read_parquet(path)
        if name.endswith((".csv", ".tsv")):
            separator = "\t" if name.endswith(".tsv") else ","
            return pl.read_csv(path, separator=separator, infer_schema=False)
        if name.endswith((".jsonl", ".ndjson")):
            return pl.read_ndjson(path)
        if name.endswith(IPC):
            return pl.read_ipc(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{what}: {path} cannot be read ({first_line(error)})") from error
    raise UserError(f"{what}: {path} has an unknown format; expected a name in {FORMATS}")


def read_categories(source: Any, what: str, ids: pl.Series) -> np.ndarray:
    """Return which categories each item has [V, G], from a table of item and category.

    A category is a text, several separated by "|", or a list; an item may have several rows. Items
    that are not in the data are left out. Raises UserError.
    """
    table = as_polars(source) if is_frame(source) else _read(source, what)
    columns = _columns(table.columns)
    for role in ("item", "category"):
        if role not in columns:
            raise _missing(what, role, table.columns, "item and category")
    items, _ = _numbered(table[columns["item"]], ids)
    category = table[columns["category"]]
    if not isinstance(category.dtype, pl.List):
        category = category.cast(pl.String).str.split("|")
    pairs = pl.DataFrame({"item": items, "category": category}).drop_nulls()
    pairs = pairs.explode("category").drop_nulls()
    names = {
        name: number for number, name in enumerate(pairs["category"].unique(maintain_order=True))
    }
    if not names:
        raise UserError(f"{what}: no item of the data has a category; compare the ids")
    found = np.zeros((len(ids), len(names)), bool)
    found[pairs["item"].to_numpy(), [names[name] for name in pairs["category"]]] = True
    return found


def _exploded(table: pl.DataFrame, columns: dict[str, str]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return a row for each item of lists, the best first, with its rank."""
    user = pl.col(columns["user"])
    item = pl.col(columns["item"])
    lists = table.select(user.alias("user"), item.alias("item"))
    lists = lists.with_columns(rank=pl.int_ranges(pl.col("item").list.len()))
    lists = lists.filter(pl.col("item").list.len() > 0).explode("item", "rank")
    return lists, {name: name for name in ("user", "item", "rank")}


def _numbers(table: pl.DataFrame, name: str, what: str) -> pl.Series:
    """Return a column as floats. Raises UserError if a value is missing or not a number."""
    column = table[name]
    values = column.cast(pl.Float64, strict=False)
    wrong = (values.is_null() | values.is_nan()).arg_max() if len(values) else None
    if wrong is not None and (values[wrong] is None or values[wrong] != values[wrong]):
        raise UserError(
            f"{what}: row {wrong + 1} has {name} {column[wrong]!r}, expected a number; "
            "leave out what is not recommended"
        )
    return values


def _numbered(column: pl.Series, ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the index of each id among `ids`, null if it is not there, and the unknown ids."""
    given = column.unique()
    if given.dtype.is_float():
        whole = given.cast(pl.Int64, strict=False)
        text = whole.cast(pl.String).set(whole.cast(pl.Float64).ne_missing(given), None)
    else:
        text = given.cast(pl.String)
    known = pl.DataFrame({"text": ids.cast(pl.String), "number": range(len(ids))}).cast(
        {"number": pl.Int64}
    )
    pairs = pl.DataFrame({"given": given, "text": text})
    found = pairs.join(known, on="text", how="left", maintain_order="left")
    again = found.filter(pl.col("number").is_null()).with_columns(
        # with spaces around it, or a whole number that was written as a float
        pl.col("text").str.strip_chars().str.strip_suffix(".0")
    )
    again = again.drop("number").join(known, on="text", how="left")
    found = pl.concat([found.drop_nulls("number"), again])
    numbers = pl.DataFrame({"given": column}).join(
        found.select("given", "number"),
        on="given",
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    return numbers["number"], found.filter(pl.col("number").is_null())["given"]


def _key(
    users: pl.Series, keys: dict[str, pl.Series], needs_score: bool
) -> tuple[pl.Series, tuple[str, ...]]:
    """Return the key by which a user's items are ordered, the best highest, and notes.

    The scores are the key, since they show ties, unless ranks order some items against them.
    """
    if needs_score or "rank" not in keys:
        return keys["score"], ()
    by_rank = -keys["rank"]
    if "score" not in keys:
        return by_rank, ()
    table = pl.DataFrame({"user": users, "rank": keys["rank"], "score": keys["score"]})
    ordered = table.sort("user", "rank", pl.col("score"), descending=[False, False, True])
    rises = (pl.col("score").diff() > 0) & (pl.col("user").diff() == 0)
    if not ordered.select(rises.any()).item():
        return keys["score"], ()
    return by_rank, ("the ranks order some items against their scores; the ranks were used",)
