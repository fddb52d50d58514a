"""Read a flag's text as one value of its type, or as several to sweep over. Imports no JAX."""

import sys
from typing import Any

from data_prep.settings import UserError

MAX_RANGE_VALUES = 1000


def convert(name: str, text: str | bool, kind: type) -> Any:
    """Return a flag's text as a value of its type. Raises UserError."""
    if kind in (bool, str):
        return text
    try:
        return kind(text)
    except ValueError as error:
        number = "a whole number" if kind is int else "a number"
        raise UserError(f"--{name}: {text!r} is not {number}; see --help") from error


def expand(name: str, text: str, kind: type) -> list:
    """Return the values that a flag lists. Raises UserError.

    The text is a,b,c; for numbers, each of these may also be a range lo:hi:n or lo:hi:n:log.
    """
    values = []
    for part in text.split(","):
        if ":" in part and kind is not str:
            values += expand_range(name, part, kind)
        else:
            values.append(convert(name, part, kind))
    return values


def expand_range(name: str, text: str, kind: type) -> list:
    """Return the n numbers of lo:hi:n (equal steps) or lo:hi:n:log (equal ratios).

    Whole numbers are rounded. Raises UserError.
    """
    low, high, count, is_log = _range_parts(name, text, kind)
    # Compared instead of math.isfinite, which raises OverflowError for a huge whole number.
    is_finite = max(abs(low), abs(high)) <= sys.float_info.max
    is_positive = min(low, high) > 0
    if not 2 <= count <= MAX_RANGE_VALUES or not is_finite or (is_log and not is_positive):
        limits = " and limits above 0" if is_log else ""
        raise UserError(
            f"--{name}: {text!r} is a range of {count} from {low} to {high}; "
            f"expected n of 2 to {MAX_RANGE_VALUES}{limits}"
        )
    inner = []
    for i in range(1, count - 1):
        share = i / (count - 1)
        value = low * (high / low) ** share if is_log else low + (high - low) * share
        # Six significant digits, so that no folder is named 0.30000000000000004.
        inner.append(round(value) if kind is int else float(f"{value:.6g}"))
    return [low, *inner, high]


def _range_parts(name: str, text: str, kind: type) -> tuple[Any, Any, int, bool]:
    """Return (lo, hi, n, whether it is logarithmic) of a range. Raises UserError."""
    parts = text.split(":")
    is_log = len(parts) == 4 and parts[3] == "log"
    if len(parts) != 3 and not is_log:
        raise UserError(
            f"--{name}: {text!r} is not a range; expected lo:hi:n or lo:hi:n:log, "
            "as in 0.001:0.1:5:log"
        )
    low = convert(name, parts[0], kind)
    high = convert(name, parts[1], kind)
    return low, high, convert(name, parts[2], int), is_log
