"""Train and evaluate every combination of an experiment, and write the results to disk.

The command line and the Python interface both call this. Nothing is printed: `log` receives each
line.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.data.time_gaps import checked_times
from ttt4rec_jax.parallel.sharding import DeviceMesh
from ttt4rec_jax.pipeline import result, resume, sweep, sweep_picture
from ttt4rec_jax.pipeline.heldout import HeldOut
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder, write_json
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.load import check_fits
from ttt4rec_jax.training import fit as training
from ttt4rec_jax.training.compile import compile_runs
from ttt4rec_jax.training.precision import notice
from ttt4rec_jax.training.progress import DivergedError, Outcome

logger = logging.getLogger(__name__)

# (a combination's name, the epoch as a line of metrics.jsonl, parameters) -> None or "stop"
OnEpoch = Callable[[str, dict[str, Any], Any], str | None]


class Experiment(NamedTuple):
    """What to train, on which data and devices, where to write the results, and the callbacks.

    combinations: by the name of their folder in `root`, "" for a single run. flags: the values of
    every option, which a sweep records. started: time.perf_counter() when the program started. bar:
    the class of the progress bar, None for no bar. rank_test: whether the test set is ranked.
    """

    combinations: dict[str, Config]
    flags: dict[str, list]
    root: RunFolder
    dataset: Dataset
    items: Catalogue
    mesh: DeviceMesh | None
    platform: str
    started: float
    prepare_seconds: float
    log: Callable[[str], Any]
    on_epoch: OnEpoch | None = None
    bar: type[tqdm] | None = tqdm
    rank_test: bool = True

    @property
    def is_sweep(self) -> bool:
        return list(self.combinations) != [""]

    @property
    def folders(self) -> dict[str, RunFolder]:
        return {name: RunFolder(self.root.path / name) for name in self.combinations}


def train_all(experiment: Experiment) -> dict[str, dict]:
    """Train every combination that has no result yet, and write the results.

    A sweep also writes its table and picture. Returns {combination: the content of its result.json,
    or {"error": text}}. Raises UserError if no combination has a result, or if a run was started
    on other data, and Interrupted after everything has been saved.
    """
    results = train_missing(experiment)
    if experiment.is_sweep:
        write_sweep(results, experiment)
    experiment.log(f"results    {experiment.root.path}")
    return results


def train_missing(experiment: Experiment) -> dict[str, dict]:
    """Train every combination that has no result yet; return the results of all, as train_all."""
    manifest = experiment.dataset.manifest
    for config in experiment.combinations.values():
        if config.model.time != "none":
            checked_times(experiment.dataset, config.model.time)  # before anything is written
    resume.check_data(experiment.root, experiment.combinations, manifest["sha256"])
    if experiment.is_sweep:
        # Written first, so that --resume recognises the sweep wherever it was stopped.
        sweep.write(experiment.root.path, experiment.flags, [], _select_by(experiment))
    results = saved_results(experiment.folders, experiment.combinations)
    if not experiment.is_sweep:
        if "model" in results.get("", {}) and jax.process_count() == 1:  # others cannot know
            experiment.log(f"\n{result.table(results[''])}")
            return results
        results = {}  # a run that failed is tried again
    for name, folder in experiment.folders.items():
        if name in results:
            continue  # nothing of a finished run is written again
        config = experiment.combinations[name]
        folder.create(config, manifest)
        is_trained = MODELS[config.model.model].trained
        catalogue.save(folder, experiment.items, experiment.dataset, is_trained)
    waiting = {n: config for n, config in experiment.combinations.items() if n not in results}
    started = sweep.started(experiment.root.path, experiment.combinations)
    programs = sweep.groups(waiting, started)
    for number, group in enumerate(programs, 1):
        if experiment.is_sweep:
            title = f"program {number} of {len(programs)}"
            experiment.log(f"\n{title}: {len(group)} combinations trained together")
        for name, outcome in train_group(group, experiment).items():
            if name not in results:
                results[name] = write_result(name, outcome, experiment)
    return results


def write_result(name: str, outcome: Outcome | UserError, experiment: Experiment) -> dict:
    """Write a combination's result, or its error, into its folder, and return it."""
    folder = experiment.folders[name]
    if isinstance(outcome, UserError):
        error = {"error": str(outcome)}
        write_json(folder.error, error)
        return error
    seconds = {
        "prepare": experiment.prepare_seconds,
        "total": time.perf_counter() - experiment.started,
    }
    dataset = experiment.dataset
    config = experiment.combinations[name]
    test = HeldOut(dataset, experiment.items.clicks)
    content = result.result(config, dataset.manifest, outcome, seconds, experiment.platform, test)
    folder.write_result(content, outcome.test_ranks, dataset.test.users)
    if not experiment.is_sweep:
        experiment.log(f"\n{result.table(content)}")
    return content


def write_sweep(results: dict[str, dict], experiment: Experiment) -> None:
    """Write and log a sweep's table, and plot it. Raises UserError if every combination failed."""
    root = experiment.root.path
    select_by = _select_by(experiment)
    rows = sweep.rows(results, select_by)
    sweep.write(root, experiment.flags, rows, select_by)
    sweep_picture.draw(root, experiment.flags, rows, select_by)
    experiment.log(f"\n{sweep.table(rows, select_by)}")
    if all(row["error"] for row in rows):
        raise UserError(f"no combination has a result; see {root / 'sweep.json'}")


def _select_by(experiment: Experiment) -> str:
    return next(iter(experiment.combinations.values())).eval.select_by


def train_group(
    group: dict[str, Config], experiment: Experiment
) -> dict[str, Outcome | DivergedError]:
    """Train combinations that share a program, and return {name: its outcome or its error}.

    Raises DivergedError if a single run diverges, Interrupted, UserError.
    """
    names = list(group)
    # of one member, since all have the same sizes
    for name in [name for name in names if experiment.folders[name].best.is_dir()][:1]:
        check_fits(experiment.folders[name], group[name], experiment.dataset.num_items)
    folder = sweep.group_folder(experiment.root.path, names)
    if experiment.is_sweep:
        sweep.write_members(folder, names)
    folders = {name: RunFolder(experiment.root.path / name) for name in names}
    try:
        return fit(
            group,
            experiment.dataset,
            folder,
            folders,
            experiment.mesh,
            experiment.log,
            experiment.on_epoch,
            experiment.bar,
            experiment.rank_test,
        )
    except DivergedError as error:
        if not experiment.is_sweep:
            raise
        return dict.fromkeys(names, error)


def fit(
    group: dict[str, Config],
    dataset: Dataset,
    folder: RunFolder,
    folders: dict[str, RunFolder],
    mesh: DeviceMesh | None,
    log: Callable[[str], Any],
    on_epoch: OnEpoch | None = None,
    bar: type[tqdm] | None = tqdm,
    rank_test: bool = True,
) -> dict[str, Outcome | DivergedError]:
    """Train and evaluate the runs of one program, and return {name: its outcome or its error}.

    Args:
        folder: Where the training state is saved.
        folders: Where each run's metrics and best parameters are written.
        log, on_epoch, bar, rank_test: those of Experiment.

    Raises DivergedError if all runs diverge, Interrupted, UserError.
    """
    if note := notice(next(iter(group.values())).train):
        logger.warning("%s", note)
    executables = compile_runs(list(group.values()), dataset, mesh)
    program = executables.program
    num_examples = program.training.num_examples if program.training else 0
    impl = models.ttt_impl(program.config.model)
    details = f", TTT implementation {impl}" if impl else ""
    log(
        f"model     {program.config.model.model}, {program.num_parameters:,} parameters, "
        f"{num_examples:,} training examples per epoch{details}\n"
        f"          compiled in {executables.seconds:.1f} s"
    )
    names = list(group)

    def after_epoch(r: int, line: dict[str, Any], params: Any) -> str | None:
        return on_epoch(names[r], line, params) if on_epoch else None

    outcomes = training.fit(
        executables,
        folder,
        [folders[name] for name in names],
        log,
        on_epoch=after_epoch if on_epoch else training.ignore,
        bar=bar,
        rank_test=rank_test,
    )
    return dict(zip(names, outcomes, strict=True))


def saved_results(
    folders: dict[str, RunFolder], combinations: dict[str, Config]
) -> dict[str, dict]:
    """Return the results of finished combinations, and the errors of failed ones, from disk.

    A result of other settings than these (epochs, patience, records) is left out: its run goes on.
    """
    results = {}
    for name, folder in folders.items():
        if folder.result.exists():
            content = read.result(folder.path)
            if read.settings(folder, content).to_dict() == combinations[name].to_dict():
                results[name] = content
        elif error := read.failure(folder.path):
            results[name] = {"error": error}
    return results
