"""Which columns of a user's own file hold the user, the item and the time, and what kind of time it is."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from data_prep.settings import UserError, nearest
from data_prep.sources import Layout

# in the order they are tried; compared without case, spaces, underscores and hyphens
KNOWN = {
    "user": "user userid reviewerid uid customerid customer visitorid visitor memberid accountid playerid sessionid session",
    "item": "item itemid asin parentasin iid movieid movie productid product sku goodsid articleid newsid trackid songid "
    "artistid bookid videoid gameid businessid recipeid listingid",
    "time": "time timestamp ts unixreviewtime unixtime unixtimestamp datetime date createdat created eventtime clicktime "
    "timestampms reviewtime ratingtime",
}
ISO_FORMATS = tuple(
    f"%Y-%m-%d{rest}"
    for rest in (
        "",
        "T%H:%M:%S%.f",
        " %H:%M:%S%.f",
        "T%H:%M:%S%.fZ",
        " %H:%M:%S%.fZ",
        "T%H:%M:%S%.f%#z",
        " %H:%M:%S%.f%#z",
    )
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NotWhole(Exception):
    """A number with a fraction among times that were taken for integers."""


def plain(name: str) -> str:
    """A column's name without case, spaces, underscores, hyphens and RecBole's ':type' suffix."""
    return re.sub(r"[\s_\-]", "", name.split(":")[0]).lower()


def find_columns(layout: Layout, names: Sequence[str], label: str) -> tuple[str, str, str]:
    """The names of the user, item and time columns among those of a file. Raises UserError."""
    if not any(map(plain, names)):
        raise UserError(f"{label}: the first line names no columns; expected a header")
    found = tuple(
        _find_column(role, getattr(layout, role), names, label) for role in ("user", "item", "time")
    )
    if len(set(found)) < len(found):
        raise UserError(
            f"{label}: user, item and time are the columns {', '.join(found)}; expected three different ones"
        )
    return found


def _find_column(role: str, wanted: str, names: Sequence[str], label: str) -> str:
    listed = ", ".join(names[:20]) or "none"
    if wanted:
        found = [n for n in names if n == wanted] or [n for n in names if plain(n) == plain(wanted)]
        if not found:
            near = nearest(wanted, names)
            raise UserError(
                f"{label}: no column {wanted!r}{near}; its columns are {listed}; name the {role} with --{role}_col"
            )
    else:
        found = next(
            (
                same
                for known in KNOWN[role].split()
                if (same := [n for n in names if plain(n) == known])
            ),
            [],
        )
        if not found:
            raise UserError(
                f"{label}: none of its columns looks like the {role}; they are {listed}; name it with --{role}_col"
            )
    if len(found) > 1:
        raise UserError(
            f"{label}: column {found[0]!r} stands {len(found)} times; expected one, rename the others"
        )
    return found[0]


def integer_time(text: str) -> int | None:
    """The whole number that a text holds ('978300760', '978300760.0'), None if it is no 64-bit number.

    Raises NotWhole if it has a fraction.
    """
    if re.fullmatch(r"[+-]?[0-9]+", text):
        value = int(text)
    else:
        number = _finite(text)
        if number is None:
            return None
        if not number.is_integer():
            raise NotWhole
        value = int(number)
    return value if -(2**63) <= value < 2**63 else None


def number_time(text: str) -> int | None:
    """Millionths of the number that a text holds: seconds become microseconds."""
    number = _finite(text)
    return round(number * 1e6) if number is not None and abs(number) < 9e12 else None


def iso_time(text: str) -> int | None:
    """Microseconds since 1970 of an ISO 8601 date or date-time, UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def _finite(text: str) -> float | None:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None  # float() also takes 'nan', '1_0' and spaces
    number = float(text)
    return number if abs(number) != float("inf") else None


PARSERS = {"integer": integer_time, "number": number_time, "iso": iso_time}
UNITS = {"integer": "as in the file", "number": "microseconds", "iso": "microseconds"}


def is_time(text: str) -> bool:
    """Whether a text is a time of any kind."""
    try:
        return any(parse(text) is not None for parse in PARSERS.values())
    except NotWhole:
        return True


def time_kind(sample: Sequence[str]) -> str:
    """'integer', 'number' or 'iso': the kind that most texts of a sample are, the first of equals."""

    def matches(kind: str) -> int:
        count = 0
        for text in sample:
            try:
                count += PARSERS[kind](text) is not None
            except NotWhole:
                return 0
        return count

    return max(PARSERS, key=matches)


def time_expression(column: pl.Expr, kind: str, sample: Sequence[str]) -> pl.Expr:
    """Text -> Int64, null where it is not of the kind. What it refuses the parsers above may still take, never otherwise."""
    if kind == "integer":
        return column.cast(pl.Int64, strict=False)
    if kind == "number":
        number = column.cast(pl.Float64, strict=False)
        return (
            (pl.when(number.abs() < 9e12).then(number) * 1e6).round().cast(pl.Int64, strict=False)
        )
    texts = pl.DataFrame({"t": list(sample)}, schema={"t": pl.String})

    def expression(column: pl.Expr, form: str) -> pl.Expr:
        return column.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us")

    best = max(
        ISO_FORMATS, key=lambda form: texts.select(expression(pl.col("t"), form).count()).item()
    )
    return expression(column, best)
