"""Conditions over a file's columns, as polars' SQL expressions; nothing else can be written.

A condition is computed row by row: it cannot name tables or files, hold a query, or look at other
rows.
"""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import polars as pl

from data_prep.settings import UserError, first_line, nearest

EXAMPLE = "event = 'purchase' AND rating >= 4"
# The nodes of polars' expressions that may occur, each with the fields that hold expressions.
NODES = {
    "Column": (),
    "Literal": (),
    "Alias": (),
    "BinaryExpr": ("left", "right"),
    "Cast": ("expr",),
    "Ternary": ("predicate", "truthy", "falsy"),
    "Function": ("input",),
}
FUNCTIONS = {"Abs", "Boolean", "Coalesce", "Negate", "Sql", "StringExpr", "TemporalExpr"}
QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
SAFE_DIGITS = 15  # whole numbers of more digits do not pass through floating-point numbers


def check_condition(text: str) -> None:
    """Raise UserError unless a text is a condition over columns."""
    parse(text)


@functools.cache
def parse(text: str) -> pl.Expr:
    """Return a condition as an expression. Raise UserError if it is anything else."""
    words = re.sub(QUOTED, " ", text)
    if found := re.search(r"(?i)\b(select|exists|over|with|values|table)\b|;|--|/\*", words):
        raise _error(text, f"{found[0]!r} cannot occur in it")
    try:
        expression = pl.sql_expr(_with_user_quoted(text))
        tree = json.loads(expression.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        raise _error(text, first_line(error)) from error
    if unknown := _not_allowed(tree):
        raise _error(text, f"{unknown} is not computed from one row alone")
    if not expression.meta.root_names():
        raise _error(text, "it names no column")
    return expression


def _with_user_quoted(text: str) -> str:
    """Return a condition in which the column `user` is one; in SQL the bare word is a function."""

    def quoted(match: re.Match[str]) -> str:
        return match[0] if match[0][0] in "'\"" else f'"{match[0]}"'

    return re.sub(rf"{QUOTED}|\buser\b(?!\s*\()", quoted, text)


def columns_of(text: str) -> tuple[str, ...]:
    """Return the names of the columns in a condition, in order; () for no condition."""
    return tuple(dict.fromkeys(parse(text).meta.root_names())) if text else ()


def check_columns(text: str, names: Sequence[str], label: str) -> None:
    """Raise UserError if a column of a condition is not among those of a file."""
    for name in columns_of(text):
        if name not in names:
            raise UserError(
                f"--where: {label} has no column {name!r}{nearest(name, names)}; its columns are "
                f"{', '.join(names[:20])}; text is enclosed in single quotes"
            )


def typed(samples: dict[str, list[str | None]]) -> list[pl.Expr]:
    """Return expressions that convert columns of text to the type that their samples show.

    A text that is not of that type becomes null, which meets no comparison.
    """
    return [
        pl.col(name).cast(_type_of([text for text in sample if text]), strict=False)
        for name, sample in samples.items()
    ]


def condition_error(text: str, error: Exception) -> UserError:
    """Return the UserError for a condition that polars cannot compute on a file's columns."""
    return _error(text, first_line(error))


def _type_of(sample: list[str]) -> Any:
    if sample and all(re.fullmatch(r"-?(0|[1-9][0-9]*)", text) for text in sample):
        return pl.Float64 if max(map(len, sample)) <= SAFE_DIGITS else pl.Int64
    number = r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
    if sample and all(
        re.fullmatch(number, text) and not re.match(r"-?0[0-9]", text) for text in sample
    ):
        return pl.Float64
    return pl.String


def _not_allowed(node: Any) -> str:
    """Return the name of a node of an expression that may not occur, "" if there is none."""
    if not isinstance(node, dict) or len(node) != 1:
        return str(node)[:40]
    ((kind, fields),) = node.items()
    if kind not in NODES:
        return kind
    if kind == "Function":
        function = fields["function"]
        name = function if isinstance(function, str) else next(iter(function))
        if name not in FUNCTIONS:
            return name
    for field in NODES[kind]:
        inner = fields[field]
        for one in inner if isinstance(inner, list) else [inner]:
            if unknown := _not_allowed(one):
                return unknown
    return ""


def _error(text: str, problem: str) -> UserError:
    return UserError(
        f"--where={text!r}: {problem}; expected a condition over the file's columns, such as "
        f"{EXAMPLE}"
    )
