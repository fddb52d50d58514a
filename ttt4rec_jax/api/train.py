"""Training in Python: `train` for one run, `sweep` for every combination of several values."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import tqdm.auto

from data_prep.settings import UserError
from ttt4rec_jax.api.data import Data, Source, as_data
from ttt4rec_jax.api.options import option_lists
from ttt4rec_jax.api.run import Run
from ttt4rec_jax.config import Config, memory
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.pipeline import presets, resume
from ttt4rec_jax.pipeline import sweep as sweeps
from ttt4rec_jax.pipeline.combinations import combine
from ttt4rec_jax.pipeline.devices import device_mesh, platform
from ttt4rec_jax.pipeline.experiment import Experiment, train_all
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import host_data, tensorboard

# (the epoch as a line of metrics.jsonl, the parameters after it) -> None or "stop"
OnEpoch = Callable[[dict[str, Any], Any], str | None]
Log = Callable[[str], Any]


def train(
    data: Data | Source,
    model: Any = "ttt4rec",
    *,
    run_dir: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
    log: Log | None = None,
    **options: Any,
) -> Run:
    """Train a model, choose the epoch by validation, and evaluate the test set once.

    Args:
        data: What `prepare` returned; or what it takes, to be prepared with default options.
        model: The name of a model, "module:Class", or a class of your own.
        run_dir: The folder to leave the run in; by default a temporary one, which is removed with
            the returned Run.
        on_epoch: Is called after each epoch with its line of the history and the parameters;
            "stop" ends training. If it raises, the epoch is saved and the exception goes on.
        progress: Whether to show a progress bar, in a terminal or a notebook.
        log: Takes each line of the report that the command line prints.
        options: The flags of the command line's sections on model, training, evaluation and
            records, such as epochs, initializer_range, targets; preset ("paper", "fair",
            "authors" or "best"), mesh, data_placement; and resume=True, to continue the run in
            run_dir.

    Returns: the run. Raises UserError, also if training diverges, and Interrupted after Ctrl-C,
    once everything is saved.
    """
    experiment, temporary = _experiment(data, model, run_dir, on_epoch, progress, log, options)
    if experiment.is_sweep:
        swept = ", ".join(name for name, values in experiment.flags.items() if len(values) > 1)
        raise UserError(f"{swept}: several values; train takes one value each, sweep takes several")
    _train(experiment)
    return Run(experiment.root.path, temporary)


def sweep(
    data: Data | Source,
    model: Any = "ttt4rec",
    *,
    run_dir: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
    log: Log | None = None,
    **options: Any,
) -> pl.DataFrame:
    """Train every combination of the options' values, and return a table of them.

    The arguments are those of `train`, but an option, or `model`, may be a list, a range or an
    array of values. Combinations that differ in seed, learning_rate, initializer_range or
    fast_weight_range alone are trained together by one compiled program. on_epoch gets the
    combination's name as line["combination"].

    Returns: a row for each combination, best validation metric first: the options with several
    values, the best epoch, validation and test metrics, and why it failed if it did. Raises
    UserError if every combination fails, and Interrupted.
    """
    experiment, temporary = _experiment(data, model, run_dir, on_epoch, progress, log, options)
    results = _train(experiment)
    if temporary is not None:
        temporary.cleanup()
    select_by = next(iter(experiment.combinations.values())).eval.select_by
    swept = [name for name, values in experiment.flags.items() if len(values) > 1]
    rows = []
    for row in sweeps.rows(results, select_by):
        values = _values_of(experiment.combinations[row["combination"]])
        metrics = {n: x for n, x in row.items() if n not in ("combination", "seed", "error")}
        rows.append({n: values[n] for n in swept} | metrics | {"error": row["error"] or None})
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides={"error": pl.String})


def _experiment(
    data: Data | Source,
    model: Any,
    run_dir: str | Path | None,
    on_epoch: OnEpoch | None,
    progress: bool,
    log: Log | None,
    options: dict[str, Any],
) -> tuple[Experiment, tempfile.TemporaryDirectory | None]:
    """Return what is to be trained, and the temporary folder it is in, if any. Raises UserError."""
    if on_epoch is not None and not callable(on_epoch):
        raise UserError(f"on_epoch: {on_epoch!r} is not a function")
    data = as_data(data)
    log = log or silent
    if run_dir is not None:
        options = options | {"run_dir": str(run_dir)}
    lists, given = option_lists(data.config, model, options)
    presets.check_swept(lists, given)
    lists = resume.complete(lists, given, log)
    combinations, run_config = combine(lists)
    root, temporary = folder(run_dir)
    resume.check_folder(root, combinations, run_config.resume)
    if any(config.record.tensorboard for config in combinations.values()):
        tensorboard.check_installed()

    def after_epoch(name: str, line: dict[str, Any], params: Any) -> str | None:
        assert on_epoch is not None
        return on_epoch(line | {"combination": name} if name else line, params)

    base = base_experiment(data, root, run_config, len(combinations), progress, log)
    return base._replace(
        combinations=combinations,
        flags=lists,
        on_epoch=after_epoch if on_epoch else None,
    ), temporary


def folder(
    run_dir: str | Path | None,
) -> tuple[RunFolder, tempfile.TemporaryDirectory | None]:
    """Return a run's folder, in a temporary folder if none is named."""
    if run_dir is not None:
        return RunFolder(Path(run_dir)), None
    temporary = tempfile.TemporaryDirectory(prefix="ttt4rec-", ignore_cleanup_errors=True)
    return RunFolder(Path(temporary.name) / "run"), temporary


def base_experiment(
    data: Data, root: RunFolder, run_config: RunConfig, num_runs: int, progress: bool, log: Log
) -> Experiment:
    """Return an experiment without combinations. Raises UserError."""
    started = time.perf_counter()
    if not callable(log):
        raise UserError(f"log: {log!r} is not a function")
    on_host = host_data.stays_on_host(run_config.data_placement, data.folder)
    dataset = load_dataset(data.folder, on_host) if on_host else data.dataset
    return Experiment(
        combinations={},
        flags={},
        root=root,
        dataset=dataset,
        items=catalogue.from_prepared(data.folder, dataset),
        mesh=device_mesh(run_config, num_runs),
        platform=platform(),
        started=started,
        prepare_seconds=data.seconds,
        log=log,
        bar=tqdm.auto.tqdm if progress else None,
    )


def _train(experiment: Experiment) -> dict[str, dict]:
    """Train with the folder locked. Raises UserError, and Interrupted."""
    with memory.in_one_line(), experiment.root.locked():
        is_resuming = experiment.flags["resume"][0]
        resume.check_folder(experiment.root, experiment.combinations, is_resuming)
        return train_all(experiment)


def _values_of(config: Config) -> dict[str, Any]:
    """Return every option's value."""
    return {n: value for section in config.to_dict().values() for n, value in section.items()}


def silent(line: str) -> None:
    """Log nothing."""
