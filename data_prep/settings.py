"""What a user may set, and the settings of data preparation: one source for defaults, help and checks.

Every setting of the project is a field made by `option`, of a frozen dataclass that calls `check`
when it is made. The command line's flags are made from the same fields. Nothing here imports JAX or
polars, so that `--help` and a wrong flag are answered at once.
"""

import dataclasses
import difflib
import math
import sys
from typing import Any

DATASETS = ("ml1m", "ml100k", "beauty", "electronics", "synthetic")
TEXT_SUFFIXES = (
    ".csv",
    ".tsv",
    ".inter",
    ".jsonl",
    ".json",
)  # also with .gz behind; .json holds JSON lines
FILE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
LARGEST = {
    int: 2**63 - 1,
    float: sys.float_info.max,
}  # to be compared with: isfinite overflows for a huge whole number


class UserError(ValueError):
    """A mistake of the user's, told in one line: what was found, what was expected, what to do."""

    def __init__(self, text: str):
        super().__init__(" ".join(text.splitlines()))  # one line, whatever it quotes


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def option(
    default: Any,
    help: str,
    *,
    choices: tuple = (),
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
) -> Any:
    """A dataclass field with help text and allowed values: one of `choices`, or low <= value <= high, value > above."""
    return dataclasses.field(
        default=default,
        metadata={"help": help, "choices": choices, "low": low, "high": high, "above": above},
    )


def nearest(name: str, known: tuple | list) -> str:
    """' (did you mean X?)' for the known name closest to a misspelt one, or nothing."""
    lower = {str(k).lower(): str(k) for k in known}
    found = difflib.get_close_matches(str(name).lower(), lower, n=1)
    return f" (did you mean {lower[found[0]]!r}?)" if found else ""


def check(settings: Any) -> None:
    """Raises UserError, naming the flag, if a field of a settings dataclass has a wrong type or value."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        meta = field.metadata
        expected = type(field.default)
        if expected is float and type(value) is int and abs(value) <= LARGEST[float]:
            object.__setattr__(settings, field.name, float(value))
        elif type(value) is not expected:
            raise UserError(
                f"--{field.name}: {value!r} is a {type(value).__name__}, expected {expected.__name__}"
            )
        if meta["choices"] and value not in meta["choices"]:
            listed = ", ".join(map(str, meta["choices"]))
            raise UserError(
                f"--{field.name}: {value!r} is not one of {listed}{nearest(value, meta['choices'])}"
            )
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and not (
            abs(value) <= LARGEST[type(value)]
            and meta["low"] <= value <= meta["high"]
            and value > meta["above"]
        ):
            raise UserError(f"--{field.name}: {value} is out of range, expected {_range(meta)}")


def _range(meta) -> str:
    """The allowed numbers of an option, in words."""
    limits = {"more than {}": meta["above"], "at least {}": meta["low"], "at most {}": meta["high"]}
    return (
        " and ".join(text.format(x) for text, x in limits.items() if math.isfinite(x))
        or "a finite number"
    )


def file_suffix(dataset: str) -> str:
    """The suffix by which a file is parsed, '.csv' for 'clicks.CSV.gz'; '' for the name of a catalogue entry.

    Raises UserError if `dataset` is neither a catalogue entry nor a path of a known form.
    """
    if dataset in DATASETS:
        return ""
    name = dataset.replace("\\", "/").rsplit("/", 1)[-1].lower()
    for suffix in FILE_SUFFIXES:
        if name.endswith(suffix) or (suffix in TEXT_SUFFIXES and name.endswith(f"{suffix}.gz")):
            return suffix
    known = f"{', '.join(DATASETS)} or a file {', '.join(FILE_SUFFIXES)} (text forms also .gz)"
    kind = (
        "a file of unknown form"
        if "." in name or name != dataset.lower()
        else "an unknown data set"
    )
    raise UserError(
        f"--dataset: {dataset!r} is {kind}{nearest(dataset, DATASETS)}; expected {known}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which interactions, how they are filtered and split, and which evaluation sets are drawn."""

    dataset: str = option(
        "ml1m",
        "A data set of the catalogue, or your own .csv, .tsv, .parquet, .jsonl or .inter file.",
    )
    user_col: str = option("", "Column of the user in your own file; found by its name when empty.")
    item_col: str = option("", "Column of the item in your own file; found by its name when empty.")
    time_col: str = option(
        "", "Column of the timestamp in your own file; found by its name when empty."
    )
    user_core: int = option(
        -1,
        "Keep users with at least so many clicks, iterated with item_core; -1: the data set's default.",
        low=-1,
    )
    item_core: int = option(
        -1,
        "Keep items with at least so many clicks, iterated with user_core; -1: the data set's default.",
        low=-1,
    )
    split: str = option(
        "leave_one_out",
        "How clicks are split into training, validation and test.",
        choices=("leave_one_out", "temporal"),
    )
    validation_time: float = option(
        0.8,
        "split=temporal: share of all clicks, in time order, before the first cut.",
        above=0.0,
        high=1.0,
    )
    test_time: float = option(
        0.9,
        "split=temporal: share of all clicks, in time order, before the second cut.",
        above=0.0,
        high=1.0,
    )
    eval_negatives: int = option(
        99, "Negatives per target in the sampled evaluation sets.", low=1, high=10_000
    )
    negatives: str = option(
        "uniform",
        "Distribution the evaluation negatives are drawn from.",
        choices=("uniform", "popularity"),
    )
    data_seed: int = option(
        0, "Seed of the evaluation negatives and of the synthetic data set.", low=0
    )
    on_bad_rows: str = option(
        "error",
        "A malformed row stops the preparation, or is skipped and counted.",
        choices=("error", "skip"),
    )

    def __post_init__(self):
        check(self)
        is_file = bool(file_suffix(self.dataset))
        for name in ("user_col", "item_col", "time_col"):
            if getattr(self, name) and not is_file:
                raise UserError(
                    f"--{name}: only for your own file; the columns of {self.dataset!r} are known, leave it out"
                )
        if self.split == "temporal" and not self.validation_time < self.test_time:
            raise UserError(
                f"--validation_time: {self.validation_time} is not before --test_time={self.test_time}"
            )
