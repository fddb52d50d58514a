"""Every combination of the values of a run's options. Imports no JAX."""

import dataclasses
import itertools
import math

from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.config.execution import RunConfig

MAX_COMBINATIONS = 10_000  # of a sweep; more is almost certainly a mistake, and would fill memory


def combine(lists: dict[str, list]) -> tuple[dict[str, Config], RunConfig]:
    """Return ({name: configuration} of every combination of the flags' values, run settings).

    A combination is named after the values of the swept flags, "" if nothing is swept. Raises
    UserError.
    """
    run = RunConfig(**{f.name: lists[f.name][0] for f in dataclasses.fields(RunConfig)})
    swept = [name for name, values in lists.items() if len(values) > 1]
    count = math.prod(map(len, lists.values()))
    if count > MAX_COMBINATIONS:
        raise UserError(
            f"--{', --'.join(swept)}: found {count:,} combinations, "
            f"expected at most {MAX_COMBINATIONS:,}; give fewer values"
        )
    combinations = _combinations(lists, swept)
    if len(combinations) > 1 and (run.mesh or run.coordinator):
        raise UserError(
            "--mesh: spreads a single run over devices, but this is a sweep, "
            "whose runs are distributed over the devices already; leave it out"
        )
    return combinations, run


def _combinations(lists: dict[str, list], swept: list[str]) -> dict[str, Config]:
    """Return {name: configuration}. Raises UserError if two combinations are the same run."""
    single = {name: values[0] for name, values in lists.items()}
    combinations: dict[str, Config] = {}
    names: dict[Config, str] = {}
    for values in itertools.product(*(lists[name] for name in swept)):
        chosen = dict(zip(swept, values, strict=True))
        name = ",".join(f"{flag}={value}" for flag, value in chosen.items())
        config = Config.from_flags(single | chosen)
        same = names.setdefault(config, name)
        if same != name:
            raise UserError(f"{same} and {name} are the same run; leave one out")
        combinations[name] = config
    return combinations
