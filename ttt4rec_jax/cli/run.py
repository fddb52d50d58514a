"""From settings to results on disk: prepare the data, train, evaluate, report.

This is the work of experiments/main.py once its flags are known to be right.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from tqdm import tqdm

from data_prep.prepare import prepare
from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.cli import result, sweep, sweep_picture
from ttt4rec_jax.cli.devices import start_devices
from ttt4rec_jax.cli.flags import RunConfig
from ttt4rec_jax.cli.resume import check_folder
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data.dataset import Dataset, load_dataset
from ttt4rec_jax.data.examples import steps_of, training_examples
from ttt4rec_jax.parallel import processes
from ttt4rec_jax.parallel.sharding import DeviceMesh
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder, write_json
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.training import fit as training
from ttt4rec_jax.training import host_data, tensorboard
from ttt4rec_jax.training.compile import compile_runs
from ttt4rec_jax.training.progress import DivergedError, Outcome


class Experiment(NamedTuple):
    """What is trained, on which data and devices, and where the results go."""

    combinations: dict[str, Config]  # by the name of their folder in `root`, "" for a single run
    flags: dict[str, list]  # as the command line gave them, for sweep.json
    root: RunFolder
    dataset: Dataset
    items: Catalogue
    mesh: DeviceMesh | None
    platform: str
    started: float  # time.perf_counter() when the program started
    prepare_seconds: float

    @property
    def is_sweep(self) -> bool:
        return list(self.combinations) != [""]

    @property
    def folders(self) -> dict[str, RunFolder]:
        return {name: RunFolder(self.root.path / name) for name in self.combinations}


def run(
    combinations: dict[str, Config],
    run_config: RunConfig,
    root: RunFolder,
    flags: dict[str, list],
    started: float,
) -> None:
    """Train and evaluate every combination; with --dry_run, only print what would be trained.

    Args:
        combinations: The configurations by the name of their folder in `root`.
        root: The folder of the run or sweep.
        flags: Every flag's values, as a sweep records them.
        started: time.perf_counter() when the program started.

    Raises UserError, and Interrupted once everything is saved.
    """
    config = next(iter(combinations.values()))
    mesh = start_devices(run_config, len(combinations))
    if config.record.tensorboard:
        tensorboard.check_installed()
    prepared = prepare(config.data, run_config.data_dir, run_config.cache_dir)
    on_host = host_data.stays_on_host(run_config.data_placement, prepared)
    dataset = load_dataset(prepared, on_host)
    prepare_seconds = time.perf_counter() - started
    if not processes.is_primary():
        if not run_config.dry_run:
            fit({"": config}, dataset, root, {"": root}, mesh, log=_silent)
        return
    device = jax.devices()[0].device_kind
    platform = f"{jax.default_backend()}, {jax.device_count()} x {device}"
    print(f"{describe(dataset, prepared)}\nplatform  {platform}{', data on the host' * on_host}")
    print(f"run       {root.path}", flush=True)
    if run_config.dry_run:
        print(dry_run(combinations, dataset, root.path))
        return
    with root.locked():
        # Again, since another process may have started a run here in the meantime.
        check_folder(root, combinations, run_config.resume)
        train_all(
            Experiment(
                combinations=combinations,
                flags=flags,
                root=root,
                dataset=dataset,
                items=catalogue.from_prepared(prepared, dataset),
                mesh=mesh,
                platform=platform,
                started=started,
                prepare_seconds=prepare_seconds,
            )
        )


def describe(dataset: Dataset, prepared: Path) -> str:
    """Return lines that say which data are used."""
    manifest = dataset.manifest
    counts = manifest["counts"]
    lines = [
        f"data      {manifest['name']}, sha256 {manifest['sha256'][:16]}, in {prepared}",
        f"          {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions",
    ]
    if without := dataset.users_without_negatives:
        lines.append(
            f"          {without:,} users have training clicks on every item: "
            "they train without negatives"
        )
    return "\n".join(lines)


def train_all(experiment: Experiment) -> None:
    """Train every combination that has no result yet, and write the results.

    A sweep also leaves its table and picture. Raises UserError if no combination has a result.
    """
    results: dict[str, dict] = {}
    if experiment.is_sweep:
        # First, so that --resume recognises the sweep wherever it is stopped.
        sweep.write(experiment.root.path, experiment.flags, [], _select_by(experiment))
        results = saved_results(experiment.folders)
    for name, folder in experiment.folders.items():
        config = experiment.combinations[name]
        folder.create(config)
        is_trained = MODELS[config.model.model].trained
        catalogue.save(folder, experiment.items, experiment.dataset, is_trained)
    waiting = {n: config for n, config in experiment.combinations.items() if n not in results}
    started = sweep.started(experiment.root.path, experiment.combinations)
    programs = sweep.groups(waiting, started)
    for number, group in enumerate(programs, 1):
        if experiment.is_sweep:
            title = f"program {number} of {len(programs)}"
            print(f"\n{title}: {len(group)} combinations trained together", flush=True)
        for name, outcome in train_group(group, experiment).items():
            if name not in results:
                results[name] = write_result(name, outcome, experiment)
    if experiment.is_sweep:
        write_sweep(results, experiment)
    print(f"left in    {experiment.root.path}", flush=True)


def write_result(name: str, outcome: Outcome | UserError, experiment: Experiment) -> dict:
    """Write what a combination's training came to into its folder, and return it."""
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
    content = result.result(config, dataset.manifest, outcome, seconds, experiment.platform)
    folder.write_result(content, outcome.test_ranks, dataset.test.users)
    if not experiment.is_sweep:
        print(f"\n{result.table(content)}")
    return content


def write_sweep(results: dict[str, dict], experiment: Experiment) -> None:
    """Write and print a sweep's table, and draw it. Raises UserError if all of it failed."""
    root = experiment.root.path
    select_by = _select_by(experiment)
    rows = sweep.rows(results, select_by)
    sweep.write(root, experiment.flags, rows, select_by)
    sweep_picture.draw(root, experiment.flags, rows, select_by)
    print(f"\n{sweep.table(rows, select_by)}")
    if all(row["error"] for row in rows):
        raise UserError(f"no combination has a result; see {root / 'sweep.json'}")


def _select_by(experiment: Experiment) -> str:
    return next(iter(experiment.combinations.values())).eval.select_by


def dry_run(combinations: dict[str, Config], dataset: Dataset, root: Path) -> str:
    """Return what `run` would train in this folder, in lines; compiles and writes nothing."""
    folders = {name: RunFolder(root / name) for name in combinations}
    finished = saved_results(folders)
    waiting = {name: config for name, config in combinations.items() if name not in finished}
    programs = sweep.groups(waiting)
    sizes = [size(next(iter(group.values())), dataset) for group in programs]
    return sweep.plan(programs, sizes, len(finished))


def size(config: Config, dataset: Dataset) -> tuple[int, int, int]:
    """Return (examples per epoch, steps per epoch, the model's parameters)."""
    training = models.TrainingClicks.from_dataset(dataset)
    module = nnx.eval_shape(
        lambda: models.build(config.model, dataset.num_items, 0, training=training)
    )
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param)))
    if not MODELS[config.model.model].trained:
        return 0, 0, parameters
    examples, buckets = training_examples(dataset, config)
    return len(examples.ends), sum(map(steps_of, buckets)), parameters


def train_group(
    group: dict[str, Config], experiment: Experiment
) -> dict[str, Outcome | DivergedError]:
    """Train combinations that share a program: {name: what came of it}.

    Raises DivergedError if a single run diverges, Interrupted, UserError.
    """
    names = list(group)
    folder = sweep.group_folder(experiment.root.path, names)
    if experiment.is_sweep:
        sweep.write_members(folder, names)
    folders = {name: RunFolder(experiment.root.path / name) for name in names}
    try:
        return fit(group, experiment.dataset, folder, folders, experiment.mesh, _report)
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
) -> dict[str, Outcome | DivergedError]:
    """Train and evaluate the runs of one program: {name: what came of it}.

    Args:
        folder: Where the state of training is kept.
        folders: Where each run's metrics and best parameters go.
        log: Takes each line of the report.

    Raises DivergedError if all runs diverge, Interrupted, UserError.
    """
    executables = compile_runs(list(group.values()), dataset, mesh)
    program = executables.program
    num_examples = program.training.num_examples if program.training else 0
    impl = models.ttt_impl(program.config.model)
    details = f", TTT layers as {impl}" if impl else ""
    log(
        f"model     {program.config.model.model}, {program.num_parameters:,} parameters, "
        f"{num_examples:,} training examples an epoch{details}\n"
        f"          compiled in {executables.seconds:.1f} s"
    )
    outcomes = training.fit(executables, folder, [folders[name] for name in group], log=log)
    return dict(zip(group, outcomes, strict=True))


def _report(line: str) -> None:
    """Print a line above the progress bar, at once even if stdout is a file or a pipe."""
    tqdm.write(line)
    sys.stdout.flush()


def _silent(line: str) -> None:
    """Log nothing: only the first of several processes reports."""


def saved_results(folders: dict[str, RunFolder]) -> dict[str, dict]:
    """Return the results, and the errors of failed combinations, that folders hold already."""
    results = {}
    for name, folder in folders.items():
        if folder.result.exists():
            results[name] = read.result(folder.path)
        elif error := read.failure(folder.path):
            results[name] = {"error": error}
    return results
