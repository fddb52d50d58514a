"""Find the columns of user, item and time in a user's own file, and the kind of its times."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from data_prep.settings import UserError, nearest
from data_prep.sources import Layout

# in the order in which they are tried; case, spaces, underscores and hyphens are ignored
KNOWN = {
    "user": "user userid reviewerid uid customerid customer visitorid visitor memberid accountid "
    "playerid sessionid session",
    "item": "item itemid asin parentasin iid movieid movie productid product sku goodsid articleid "
    "newsid trackid songid artistid bookid videoid gameid businessid recipeid listingid",
    "time": "time timestamp ts unixreviewtime unixtime unixtimestamp datetime date createdat "
    "created eventtime clicktime timestampms reviewtime ratingtime",
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
    """A number with a fraction occurs among times that were assumed to be integers."""


def plain(name: str) -> str:
    """Return a column's name without case, spaces, "_", "-" and RecBole's ":type" suffix."""
    return re.sub(r"[\s_\-]", "", name.split(":")[0]).lower()


def find_columns(layout: Layout, names: Sequence[str], label: str) -> tuple[str, str, str]:
    """Return the names of the user, item and time columns among those of a file.

    layout: contains the names that the user has set. Raise UserError if a column is not found or
    not unique.
    """
    if not any(map(plain, names)):
        raise UserError(f"{label}: the first line names no columns; expected a header")
    user, item, time = (
        _find_column(role, getattr(layout, role), names, label) for role in ("user", "item", "time")
    )
    if len({user, item, time}) < 3:
        raise UserError(
            f"{label}: user, item and time are the columns {user}, {item}, {time}; expected three "
            "different ones"
        )
    return user, item, time


def _find_column(role: str, wanted: str, names: Sequence[str], label: str) -> str:
    """Return the column of a role: the wanted one, or, if that is "", one with a known name."""
    listed = ", ".join(names[:20]) or "none"
    if wanted:
        matches = [n for n in names if n == wanted] or _named(plain(wanted), names)
        if not matches:
            near = nearest(wanted, list(names))
            raise UserError(
                f"{label}: no column {wanted!r}{near}; its columns are {listed}; name the {role} "
                f"with --{role}_col"
            )
    else:
        candidates = (_named(known, names) for known in KNOWN[role].split())
        matches = next((same for same in candidates if same), [])
        if not matches:
            raise UserError(
                f"{label}: none of its columns looks like the {role}; they are {listed}; name it "
                f"with --{role}_col"
            )
    if len(matches) > 1:
        raise UserError(
            f"{label}: column {matches[0]!r} occurs {len(matches)} times, expected once; rename "
            "the others"
        )
    return matches[0]


def _named(plain_name: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if plain(name) == plain_name]


def integer_time(text: str) -> int | None:
    """Return the integer in a text ('97830', '97830.0'), None if it is not a 64-bit integer.

    Raise NotWhole if it has a fraction.
    """
    if re.fullmatch(r"[+-]?[0-9]{1,400}", text):
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
    """Return a text's number of seconds in microseconds, None if it is not a number."""
    number = _finite(text)
    return round(number * 1e6) if number is not None and abs(number) < 9e12 else None


def iso_time(text: str) -> int | None:
    """Return an ISO 8601 date or date-time in microseconds since 1970, None if it is not one.

    Without a time zone, it is in UTC.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def _finite(text: str) -> float | None:
    """Return the number in a text, None if it is not a number or overflows."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None  # float() would also accept 'nan', '1_0' and spaces
    number = float(text)
    return number if math.isfinite(number) else None


PARSERS = {"integer": integer_time, "number": number_time, "iso": iso_time}
UNITS = {"integer": "as in the file", "number": "microseconds", "iso": "microseconds"}


def is_time(text: str) -> bool:
    """Return whether a text is a time of any kind."""
    try:
        return any(parse(text) is not None for parse in PARSERS.values())
    except NotWhole:
        return True


def time_kind(sample: Sequence[str]) -> str:
    """Return the kind that most texts of a sample are: integer, number or iso, in that order."""

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
    """Return an expression that maps texts to Int64, null where a text is not of the kind.

    It is never more lenient than PARSERS, which may accept a text that it rejects.
    """
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
