"""What a search is: its budget, and what it chooses from for each option. Imports no JAX.

The syntax is that of sweeps, except that a range has no number of steps: 1e-4:1e-2:log is any
number between the two, chosen by equal ratios.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from data_prep.settings import UserError, check, choices_of, option
from ttt4rec_jax.config import MODELS, SWEPT, TTT, Config
from ttt4rec_jax.config.models import has_option
from ttt4rec_jax.config.run import ONE_PROGRAM, sections
from ttt4rec_jax.config.values import convert


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers from low to high; whole ones if both are. is_log: chosen by equal ratios."""

    low: float
    high: float
    is_log: bool = False

    @property
    def first(self) -> float:
        """A value of the range."""
        return self.low

    def text(self) -> str:
        """Return the range as it is written in a flag."""
        return f"{self.low:g}:{self.high:g}{':log' * self.is_log}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple

    @property
    def first(self) -> Any:
        """One of the values."""
        return self.values[0]

    def text(self) -> str:
        """Return the values as they are written in a flag."""
        return ",".join(map(str, self.values))


Space = dict[str, Range | Choice]
TRIALS = "trials"
TOGETHER = 4  # trials that share a program are asked for and trained in batches of this size

# What is searched if no flag says otherwise: what every trained model has, and what some add. The
# limits are those within which published recipes of these models lie.
SHARED: Space = {
    "learning_rate": Range(3e-4, 1e-2, True),
    "dropout": Range(0.0, 0.6),
}
BY_OPTION: Space = {
    "num_blocks": Choice((1, 2, 3)),
    "inner_learning_rate": Range(0.1, 10.0, True),
    "mini_batch_size": Choice((1, 5, 10)),
    "num_interests": Choice((2, 4, 8)),
    "mask_probability": Range(0.1, 0.6),
}


def default_space(model: str) -> Space:
    """Return the options of a model that are searched by default. Raises UserError."""
    if not MODELS[model].trained:
        raise UserError(f"--model={model}: is not trained, so there is nothing to search for")
    return SHARED | {name: one for name, one in BY_OPTION.items() if has_option(model, name)}


def read(name: str, text: str, field: dataclasses.Field) -> Range | Choice | None:
    """Return what a flag's text lets the search choose from; None for a single value.

    Raises UserError.
    """
    kind: type = type(field.default)
    if kind is bool:
        return None
    if "," in text:
        return _choice(name, [convert(name, part, kind) for part in text.split(",")], field)
    if ":" in text and kind is not str:
        return _range(name, text, kind)
    return None


def _choice(name: str, values: list, field: dataclasses.Field) -> Choice:
    if len(set(values)) < len(values):
        raise UserError(f"--{name}: {values} has a duplicate; give each value once")
    known = choices_of(field)
    for value in values:
        if known and value not in known:
            raise UserError(f"--{name}: {value!r} is not one of {', '.join(map(str, known))}")
    return Choice(tuple(values))


def _range(name: str, text: str, kind: type) -> Range:
    parts = text.split(":")
    is_log = parts[-1] == "log"
    if len(parts) != 2 + is_log:
        raise UserError(
            f"--{name}: {text!r} is not a range to search; expected lo:hi or lo:hi:log, as in "
            "1e-4:1e-2:log (a sweep's range has a number of steps, a search's has none)"
        )
    low, high = (convert(name, part, kind) for part in parts[:2])
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high or (is_log and low <= 0):
        above = ", both above 0" if is_log else ""
        raise UserError(f"--{name}: found {text!r}, expected the lower limit first{above}")
    return Range(low, high, is_log)


def shares_a_program(model: str, names: Iterable[str]) -> bool:
    """Return whether runs that differ in these options alone are trained by one program."""
    stacked = {*ONE_PROGRAM["train"], *(ONE_PROGRAM["model"] if model in TTT else ())}
    return set(names) <= stacked


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The budget of a search, and how it chooses."""

    trials: int = option(40, "Number of trials, with those before an interruption.", low=1)
    seconds: float = option(
        0.0,
        "Training time after which no further trial is started, over all interruptions; 0: no "
        "limit but --trials.",
        low=0.0,
    )
    search_seed: int = option(0, "Seed of the search; --seed is that of the runs.", low=0)
    prune: bool = option(
        True,
        "Stop a trial whose best validation metric is below the median of the earlier trials at "
        "the same epoch.",
    )
    together: int = option(
        0,
        "Number of trials that are chosen and trained at a time; 0: 4 if all options that are "
        "searched for belong to one compiled program (learning_rate, initializer_range), else 1.",
        low=0,
        high=64,
    )

    def __post_init__(self) -> None:
        check(self)


class Search(NamedTuple):
    """A search: its budget, what it chooses from, and the values of all other options."""

    config: SearchConfig
    space: Space
    fixed: dict[str, Any]

    def combination(self, chosen: dict[str, Any]) -> Config:
        """Return the settings of a trial. Raises UserError."""
        return Config.from_flags(self.fixed | chosen)

    @property
    def batch(self) -> int:
        """The number of trials that are trained at a time."""
        if self.config.together:
            return self.config.together
        return TOGETHER if shares_a_program(self.fixed["model"], self.space) else 1


class Trial(NamedTuple):
    """A trial of the study. state: "complete", "pruned", "fail" or "running"."""

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    reason: str

    @property
    def folder(self) -> str:
        """The name of its run's folder in that of the search."""
        return folder_of(self.number)


def folder_of(number: int) -> str:
    """Return the name of a trial's folder in that of the search."""
    return f"{TRIALS}/{number:04d}"


def best(done: list[Trial]) -> Trial | None:
    """Return the complete trial with the best validation metric, the first of equal ones."""
    complete = [trial for trial in done if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def title(number: int, params: dict[str, Any]) -> str:
    """Return a trial's name and what was chosen, as a line."""
    chosen = "  ".join(f"{name}={number_text(value)}" for name, value in params.items())
    return f"trial {number:04d}  {chosen}"


def number_text(value: Any) -> str:
    """Return a value with four significant digits, for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fields_of(model: str) -> dict[str, dataclasses.Field]:
    """Return the options that a search may choose for a model, by name. The seed is not one."""
    classes = sections(model)
    return {
        field.name: field
        for section in SWEPT
        for field in dataclasses.fields(classes[section])
        if field.name not in ("model", "seed")
    }


def new_search(config: SearchConfig, given: dict[str, Any], preset: dict[str, Any]) -> Search:
    """Return a search. Raises UserError.

    given: {option: its value, or what is searched}. preset: values of options that are neither
    given nor searched by default.
    """
    model = given["model"]
    classes = sections(model)
    defaults = {f.name: f.default for part in classes.values() for f in dataclasses.fields(part)}
    return changed(Search(config, default_space(model), defaults | preset), given)


def changed(search: Search, given: dict[str, Any]) -> Search:
    """Return a search in which the given options have another value or another range.

    Raises UserError if nothing is left to search for, or if a value is impossible.
    """
    chosen = {name: one for name, one in given.items() if isinstance(one, Range | Choice)}
    fixed = {name: one for name, one in given.items() if name not in chosen}
    allowed = fields_of(search.fixed["model"] if "model" not in fixed else fixed["model"])
    for name in chosen:
        if name not in allowed:
            raise UserError(f"--{name}: cannot be searched for; give one value")
    space = {name: one for name, one in search.space.items() if name not in fixed} | chosen
    if not space:
        raise UserError("search: every option has one value; give a range such as 1e-4:1e-2:log")
    now = search._replace(space=space, fixed=search.fixed | fixed)
    now.combination({name: one.first for name, one in space.items()})  # the other options fit
    return now
