"""The forms in which files hold times: whole numbers, numbers with a fraction, and dates."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl

from data_prep.settings import UserError, first_line

_CLOCKS = ("", "T%H:%M:%S%.f", " %H:%M:%S%.f", " %H:%M")
_ZONES = ("", "Z", " UTC", "%#z")
# in the order in which they are tried; the last is that of Goodreads and of Twitter
DATE_FORMATS = (
    *(
        f"{date}{clock}{zone if clock else ''}"
        for date in ("%Y-%m-%d", "%Y/%m/%d")
        for clock in _CLOCKS
        for zone in (_ZONES if clock else ("",))
    ),
    "%a %b %d %H:%M:%S %z %Y",
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# {unit: (the least magnitude of a time in it, what it is multiplied by)}: a time in seconds has
# less than 1e11, which is the year 5138, one in milliseconds less than 1e14, and so on
UNITS = {
    "nanoseconds": (1e17, 1),
    "microseconds": (1e14, 1),
    "milliseconds": (1e11, 1000),
    "seconds": (0, 1_000_000),
}
PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
AS_IN_FILE = "as in the file"
NO_TIME = "none: clicks are in the order of the rows"
EXPECTED = "a unix time or a date-time, of one kind in the whole file (--time_format names others)"
# Days, and the milliseconds that have passed since some moment: Diginetica's sessions
DATE_AND_MS = "date+ms"
LONGEST_MS = 10**15
CLOCK = r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"


class NotWhole(Exception):
    """A number with a fraction occurs among times that were assumed to be integers."""


class TimeForm(NamedTuple):
    """How times are read.

    kind: integer, number (with fractions, in `unit`), date, offset (a date and milliseconds) or
    none. format: of dates, "" for any that is known. is_given: whether the user has named it.
    """

    kind: str
    unit: str = "seconds"
    format: str = ""
    is_given: bool = False

    @property
    def stored_unit(self) -> str:
        """The unit of the times that are stored."""
        if self.kind == "number":
            return "nanoseconds" if self.unit == "nanoseconds" else "microseconds"
        if self.kind in ("date", "offset"):
            return "microseconds"
        return {"integer": AS_IN_FILE, "none": NO_TIME}[self.kind]

    @property
    def parse(self) -> Callable[[str], int | None]:
        """The function that maps a text to its time, None if it is not one."""
        if self.kind == "date" and self.is_given:
            return lambda text: _given_date(text, self.format)
        if self.kind == "number":
            return lambda text: number_time(text, UNITS[self.unit][1])
        if self.kind == "offset":
            return _offset_time
        return {"integer": integer_time, "date": date_time, "none": lambda text: 0}[self.kind]

    def expression(self, column: pl.Expr) -> pl.Expr:
        """Return an expression that maps texts to Int64, null where a text is not of this form.

        It is never more lenient than `parse`, which may accept a text that it rejects.
        """
        if self.kind == "integer":
            return column.cast(pl.Int64, strict=False)
        if self.kind == "number":
            return number_expression(column.cast(pl.Float64, strict=False), UNITS[self.unit][1])
        if self.kind == "offset":
            parts = column.str.splitn(" ", 2).struct
            days = _date_expression(parts.field("field_0"), DATE_FORMATS[0])
            offset = parts.field("field_1").cast(pl.Int64, strict=False)
            return pl.when(offset.abs() < LONGEST_MS).then(days + 1000 * offset)
        return _date_expression(column, self.format)


FILE_ORDER = TimeForm("none")


def number_expression(number: pl.Expr, factor: int) -> pl.Expr:
    """Return an expression that multiplies and rounds numbers to Int64, null if they overflow."""
    scaled = number * factor
    return pl.when(scaled.abs() < 9e18).then(scaled).round().cast(pl.Int64, strict=False)


def _date_expression(column: pl.Expr, form: str) -> pl.Expr:
    moments = column.str.to_datetime(form, strict=False, time_unit="us")
    return moments.dt.epoch("us")


def integer_time(text: str) -> int | None:
    """Return the integer in a text ('97830', '97830.0'), None if it is not a 64-bit integer.

    Raise NotWhole if it has a fraction.
    """
    if match := re.fullmatch(r"([+-]?[0-9]{1,400})(\.0*)?", text):
        value = int(match[1])
    else:
        number = _finite(text)
        if number is None:
            return None
        if not _is_whole(text, number):
            raise NotWhole
        value = int(number)
    return value if -(2**63) <= value < 2**63 else None


def number_time(text: str, factor: int) -> int | None:
    """Return a text's number times a factor, rounded; None if it is not a number or too large."""
    number = _finite(text)
    return round(number * factor) if number is not None and abs(number * factor) < 9e18 else None


def date_time(text: str) -> int | None:
    """Return a date or date-time in microseconds since 1970, None if it is not one.

    Dates are ISO 8601, with slashes or hyphens, or as Goodreads writes them. Without a time zone,
    they are in UTC.
    """
    try:
        moment = datetime.fromisoformat(text.removesuffix(" UTC").replace("/", "-"))
    except ValueError:
        try:
            moment = datetime.strptime(text, "%a %b %d %H:%M:%S %z %Y")
        except ValueError:
            return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def _offset_time(text: str) -> int | None:
    """Return the time of a date and milliseconds in microseconds, None if it is not one."""
    date, _, offset = text.partition(" ")
    start = date_time(date)
    if start is None or not re.fullmatch(r"[+-]?[0-9]{1,400}", offset):
        return None
    return start + 1000 * int(offset) if abs(int(offset)) < LONGEST_MS else None


@functools.lru_cache(maxsize=2**16)  # the same text often comes again
def _given_date(text: str, form: str) -> int | None:
    return pl.select(_date_expression(pl.lit(text), form)).item()


def check_format(form: str) -> None:
    """Raise UserError if --time_format is not a format of dates."""
    if form == DATE_AND_MS:
        return
    try:
        pl.DataFrame({"t": ["2020"]}).select(_date_expression(pl.col("t"), form))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(
            f"--time_format: {form!r} is not a format of dates ({first_line(error)}); expected "
            "one such as %m/%d/%Y or '%d.%m.%Y %H:%M'"
        ) from error


def _finite(text: str) -> float | None:
    """Return the number in a text, None if it is not a number or overflows."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None  # float() would also accept 'nan', '1_0' and spaces
    number = float(text)
    return number if math.isfinite(number) else None


def _is_whole(text: str, number: float) -> bool:
    """Return whether a text's number has no fraction; a large one loses it as a float."""
    return number.is_integer() and not re.fullmatch(r"[^eE]*\.[0-9]*[1-9][0-9]*", text)


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    return _finite(text) is not None


def is_time(text: str) -> bool:
    """Return whether a text is a time of any kind."""
    return is_number(text) or date_time(text) is not None


def is_clock(sample: Sequence[str]) -> bool:
    """Return whether texts are times of a day, without a date."""
    return bool(sample) and all(re.fullmatch(CLOCK, text) for text in sample)


def unit_of(numbers: Sequence[float]) -> str:
    """Return the unit in which most of these numbers would be times since 1970."""
    middle = sorted(map(abs, numbers))[len(numbers) // 2] if numbers else 0
    return next(unit for unit, (least, _) in UNITS.items() if middle >= least)


def form_of(sample: Sequence[str], given: str = "", may_be_whole: bool = True) -> TimeForm:
    """Return the form of most texts of a sample.

    given: the format that the user has named. may_be_whole: whether numbers may be integers.
    """
    if given == DATE_AND_MS:
        return TimeForm("offset", format=given, is_given=True)
    if given:
        return TimeForm("date", format=given, is_given=True)
    parsed = {text: number for text in sample if (number := _finite(text)) is not None}
    numbers = [parsed[text] for text in sample if text in parsed]
    dates = sum(date_time(text) is not None for text in sample) if len(numbers) < len(sample) else 0
    if dates > len(numbers):
        texts = pl.DataFrame({"t": list(sample)}, schema={"t": pl.String})
        best = max(
            DATE_FORMATS,
            key=lambda form: texts.select(_date_expression(pl.col("t"), form).count()).item(),
        )
        return TimeForm("date", format=best)
    is_whole = may_be_whole and all(_is_whole(*pair) for pair in parsed.items())
    return TimeForm("integer") if is_whole else TimeForm("number", unit_of(numbers))


def resolution(sample: Sequence[str]) -> int | None:
    """Return the coarsest of 86400e6, 60e6, 1e6, 1e3 and 1 microseconds that divides all times.

    None if fewer than half of the sample are times.
    """
    form = form_of(sample)
    factor = 1
    if form.kind != "date":
        numbers = [number for text in sample if (number := _finite(text)) is not None]
        form = TimeForm("number", unit_of(numbers))
        factor = 1000 if form.unit == "nanoseconds" else 1
    times = [time for text in sample if (time := form.parse(text)) is not None]
    if not sample or 2 * len(times) < len(sample):
        return None
    steps = (86_400_000_000, 60_000_000, 1_000_000, 1000, 1)
    return next((s for s in steps if not any(t // factor % s for t in times)), 1)
