"""How every setting of the project is declared and checked, and the settings of data preparation.

A setting is a field made by `option`, in a frozen dataclass that calls `check` from its
`__post_init__`. The field is the single source of its default, help text and allowed values; the
command line's flags are made from the same fields. Nothing here imports JAX or polars, so that
`--help` and a wrong flag are answered without delay.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from data_prep.agreement import check_agreement
from data_prep.errors import UserError as UserError
from data_prep.errors import first_line as first_line
from data_prep.errors import nearest as nearest

# The largest magnitude of each numeric type. Numbers are compared with it, because math.isfinite
# raises OverflowError for a whole number that no float can hold.
LARGEST = {int: 2**63 - 1, float: sys.float_info.max}
MAX_NAME_BYTES = 255  # of each part of a path, on nearly all file systems
MAX_PATH_BYTES = 4095 - 100  # PATH_MAX of Linux, less room for the names of files in a folder
Choices = tuple | Callable[[], tuple]


def option(
    default: Any,
    help: str,
    *,
    choices: Choices = (),
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    path: bool = False,
) -> Any:
    """Return a dataclass field with its help text and allowed values.

    The type of the value is that of the default: bool, int, float or str.

    Args:
        choices: The allowed values; empty if all are allowed. A function is called at each check,
            so that a registry may grow after the class has been defined.
        low, high: The smallest and the largest allowed number.
        above: A number that the value must exceed.
        path: Whether the value is the path of a file or folder.
    """
    limits = {"low": low, "high": high, "above": above}
    return dataclasses.field(
        default=default, metadata={"help": help, "choices": choices, "path": path, **limits}
    )


def choices_of(field: dataclasses.Field) -> tuple:
    """Return the allowed values of an option; empty if all are allowed."""
    choices: Choices = field.metadata.get("choices", ())
    return choices() if callable(choices) else choices


def check(settings: Any) -> None:
    """Raise UserError, naming the flag, if a field of a settings dataclass has an invalid value.

    Whole numbers in float fields are converted to floats.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        expected: type = type(field.default)
        if expected is float and type(value) is int and abs(value) <= LARGEST[float]:
            value = float(value)
            object.__setattr__(settings, field.name, value)
        kind = type(value)
        if kind is not expected:
            raise UserError(
                f"--{field.name}: {value!r} is a {kind.__name__}, expected {expected.__name__}"
            )
        choices = choices_of(field)
        if choices and value not in choices:
            listed = ", ".join(map(str, choices))
            raise UserError(
                f"--{field.name}: {value!r} is not one of {listed}{nearest(value, choices)}"
            )
        if field.metadata.get("path"):
            check_path(f"--{field.name}", value)
        if expected in LARGEST and not _is_in_range(value, field.metadata):
            raise UserError(
                f"--{field.name}: {value} is out of range, expected {_range(field.metadata)}"
            )


def check_path(what: str, path: str) -> None:
    """Raise UserError if no file system of today can hold a file of this path."""
    try:
        content = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what}: {path[:60]!r} has characters that file names of this system cannot have "
            f"({sys.getfilesystemencoding()}); name another, or set PYTHONUTF8=1"
        ) from error
    if b"\0" in content:
        raise UserError(f"{what}: {path[:60]!r} has a null character; leave it out")
    longest = max(map(len, content.split(b"/")))
    if longest > MAX_NAME_BYTES:
        raise UserError(
            f"{what}: a name in {path[:40] + '...'!r} has {longest:,} bytes, expected at most "
            f"{MAX_NAME_BYTES}; shorten it"
        )
    if len(content) > MAX_PATH_BYTES:
        raise UserError(
            f"{what}: the path {path[:40] + '...'!r} has {len(content):,} bytes, expected at most "
            f"{MAX_PATH_BYTES:,}; shorten it"
        )


def _is_in_range(value: float, metadata: Mapping[str, Any]) -> bool:
    low, high, above = _limits(metadata)
    return abs(value) <= LARGEST[type(value)] and low <= value <= high and value > above


def _limits(metadata: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return (low, high, above) of an option; infinite for a field not made by `option`."""
    return (
        metadata.get("low", -math.inf),
        metadata.get("high", math.inf),
        metadata.get("above", -math.inf),
    )


def _range(metadata: Mapping[str, Any]) -> str:
    """Return the allowed numbers of an option in words."""
    low, high, above = _limits(metadata)
    limits = {"more than {}": above, "at least {}": low, "at most {}": high}
    parts = [text.format(limit) for text, limit in limits.items() if math.isfinite(limit)]
    return " and ".join(parts) or "a finite number"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which interactions are read, how they are filtered and split, and the evaluation sets."""

    dataset: str = option(
        "ml1m",
        "The name of a known data set, such as ml1m, beauty or amazon2014:Toys_and_Games (list "
        "prints all), or the path of your own file, folder or pattern (docs/data.md).",
        path=True,
    )
    user_col: str = option(
        "", "User column of your own file; if empty, it is recognised by its usual names."
    )
    item_col: str = option(
        "", "Item column of your own file; if empty, it is recognised by its usual names."
    )
    time_col: str = option(
        "",
        "Timestamp column of your own file; if empty, it is recognised by its usual names. Two "
        "columns that hold date and time are joined (date,time); none: the order of the rows.",
    )
    columns: str = option(
        "",
        "Names of the columns of a file without a header, separated by commas, as in "
        "user,item,_,time; _ is a column that is not read.",
    )
    layout: str = option(
        "",
        "How the rows of a text file hold clicks. rows: a click each (the default). sequences: a "
        "user and all of the user's items in order, separated by spaces.",
        choices=("", "rows", "sequences"),
    )
    separator: str = option(
        "",
        "What separates the columns of a text file (tab and space by these words); if empty, it is "
        "found among , ; tab | :: space.",
    )
    quoted: bool = option(
        True, "Whether double quotes in a text file enclose a field; otherwise they are characters."
    )
    comment_prefix: str = option(
        "",
        "Skip lines of a text file that begin with this. Lines before the header that begin with # "
        "are always skipped.",
    )
    member: str = option("", "Which file to read in a .zip or .tar archive that holds several.")
    time_format: str = option(
        "", "How dates are written, as in %m/%d/%Y; if empty, ISO 8601 and some others are found."
    )
    where: str = option(
        "",
        "Read only the rows that meet this condition over the file's columns, in SQL, as in "
        "\"event = 'purchase' AND rating >= 4\". It replaces the condition of a known data set.",
    )
    dedup: str = option(
        "none",
        "Which repeated clicks of a user on an item are dropped before the filters. consecutive: "
        "those that follow a click on the same item. all: all but the first.",
        choices=("none", "consecutive", "all"),
    )
    ties: str = option(
        "file",
        "Order of a user's clicks with equal times. file: as in the input. shuffled: at random, by "
        "data_seed; for input that is sorted by item, where the order tells which item is next.",
        choices=("file", "shuffled"),
    )
    user_core: int = option(
        -1,
        "Keep users with at least this many clicks (k-core, iterated with item_core); "
        "-1: the data set's default.",
        low=-1,
    )
    item_core: int = option(
        -1,
        "Keep items with at least this many clicks (k-core, iterated with user_core); "
        "-1: the data set's default.",
        low=-1,
    )
    split: str = option(
        "leave_one_out",
        "How clicks are split. leave_one_out: a user's last click is the test target and the one "
        "before it the validation target. temporal: by two points in time (validation_time, "
        "test_time) for all users. user_holdout: like leave_one_out, but a share of the users "
        "(holdout_users) is not trained on at all. rolling: by time, in several windows one after "
        "the other (windows), each with a run of its own.",
        choices=("leave_one_out", "temporal", "user_holdout", "rolling"),
    )
    validation_time: float = option(
        0.8,
        "split=temporal, rolling: fraction of all clicks, in time order, that precede validation, "
        "of rolling that of the first window.",
        above=0.0,
        high=1.0,
    )
    test_time: float = option(
        0.9,
        "split=temporal: fraction of all clicks, in time order, that precede the test.",
        above=0.0,
        high=1.0,
    )
    holdout_users: float = option(
        0.1,
        "split=user_holdout: share of the users that are held out, half of them for validation and "
        "half for the test.",
        above=0.0,
        high=0.9,
    )
    windows: int = option(
        4, "split=rolling: number of windows after validation_time.", low=2, high=100
    )
    window: int = option(
        0,
        "split=rolling: the one window to train and test, from 1; 0: all of them, one after the "
        "other.",
        low=0,
    )
    eval_negatives: int = option(
        99, "Negatives per target in the sampled evaluation sets.", low=1, high=10_000
    )
    negatives: str = option(
        "uniform",
        "Distribution from which the evaluation negatives are sampled.",
        choices=("uniform", "popularity"),
    )
    data_seed: int = option(
        0,
        "Seed of the evaluation negatives, of shuffled ties and of the synthetic data set.",
        low=0,
        high=2**31 - 1,
    )
    on_bad_rows: str = option(
        "error",
        "What to do with a malformed row: stop with an error, or skip and count it.",
        choices=("error", "skip"),
    )

    def __post_init__(self) -> None:
        check(self)
        check_agreement(self)
