"""Searching in Python: `search` for the options of a model that are best on validation."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from data_prep.settings import UserError
from ttt4rec_jax.api.data import Data, Source, as_data
from ttt4rec_jax.api.options import option_lists
from ttt4rec_jax.api.run import Run
from ttt4rec_jax.api.train import Log, base_experiment, folder
from ttt4rec_jax.config import memory
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.pipeline import presets
from ttt4rec_jax.pipeline import search_report as report
from ttt4rec_jax.pipeline.search import import_optuna
from ttt4rec_jax.pipeline.search import run as search_options
from ttt4rec_jax.pipeline.search_space import (
    Choice,
    Range,
    Search,
    SearchConfig,
    changed,
    fields_of,
    new_search,
    read,
)


class SearchResult:
    """What a search has found.

    best: the Run of the best trial, with its test metrics. trials: a row for each trial.
    importance: the share of each option in the differences between trials, {} if they are too few.
    """

    def __init__(
        self,
        path: Path,
        asked: Search,
        content: dict[str, Any],
        temporary: tempfile.TemporaryDirectory | None,
    ):
        self._asked = asked
        self._content = content
        self.best = Run(path / content["best"], temporary)
        self.trials = pl.DataFrame(
            [
                {"trial": t["number"], "state": t["state"], "validation": t["value"], **t["params"]}
                for t in content["trials"]
            ],
            infer_schema_length=None,
        )
        self.importance: dict[str, float] = content["importance"]

    def write_preset(self, path: str | Path) -> None:
        """Write the best options into a file that `train(preset=...)` takes. Raises UserError."""
        report.write_preset(Path(path), self._asked, self._content)


def search(
    data: Data | Source,
    model: str = "ttt4rec",
    *,
    trials: int = 40,
    seconds: float = 0.0,
    search_seed: int = 0,
    prune: bool = True,
    together: int = 0,
    run_dir: str | Path | None = None,
    progress: bool = False,
    log: Log | None = None,
    **options: Any,
) -> SearchResult:
    """Search for the options of a model that are best on validation, with one budget.

    Needs optuna (pip install "ttt4rec_jax[search]").

    Args:
        data, model, run_dir, progress, log: As those of `train`.
        trials, seconds: The budget; see the flags of the command search.
        search_seed, prune, together: How it chooses; see the same flags.
        options: Those of `train`. A list searches among its values, "1e-4:1e-2:log" and "0:0.5"
            between two numbers, and any other value fixes an option. With resume=True, the search
            in run_dir goes on, with the trials and the options that it was started with.

    Returns: the best run, whose test set has been ranked, and all trials. Raises UserError if no
    trial has a value, and Interrupted after everything has been saved.
    """
    import_optuna()  # before anything is prepared or written
    data = as_data(data)
    if run_dir is not None:
        options = options | {"run_dir": str(run_dir)}
    config = SearchConfig(
        trials=trials,
        seconds=float(seconds),
        search_seed=search_seed,
        prune=prune,
        together=together,
    )
    searched = _searched(model, options)
    single = {name: value for name, value in options.items() if name not in searched}
    lists, given = option_lists(data.config, model, single)
    run_config = RunConfig(**{f.name: lists[f.name][0] for f in dataclasses.fields(RunConfig)})
    own = {name: lists[name][0] for name in given if not hasattr(run_config, name)} | searched
    root, temporary = folder(run_dir)
    if run_config.resume:
        before = report.saved(root.path)
        if before is None:
            raise UserError(f"resume: {root.path} holds no search; name the folder of one")
        asked = changed(before, own)._replace(config=config)
        report.check_same(before, asked)
    elif root.is_free():
        preset = presets.values(run_config.preset, model, lists["dataset"][0])
        asked = new_search(config, own, preset)
    else:
        raise UserError(
            f"run_dir: {root.path} exists and is not empty; name another, or give resume=True"
        )
    base = base_experiment(data, root, run_config, asked.batch, progress, log or _silent)
    with memory.in_one_line(), root.locked():
        content = search_options(asked, base)
    return SearchResult(root.path, asked, content, temporary)


def _searched(model: str, options: dict[str, Any]) -> dict[str, Range | Choice]:
    """Return what is to be searched among the options: lists, and texts of ranges."""
    searched: dict[str, Range | Choice] = {}
    allowed = fields_of(model)
    for name in options.keys() & allowed.keys():
        value = options[name]
        if isinstance(value, list | tuple):
            searched[name] = Choice(tuple(value))
        elif isinstance(value, str) and (one := read(name, value, allowed[name])):
            searched[name] = one
    return searched


def _silent(line: str) -> None:
    """Log nothing."""
