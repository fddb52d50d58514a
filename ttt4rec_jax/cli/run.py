"""What main.py does after its flags have been checked: prepare the data, train, print."""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
from flax import nnx
from tqdm import tqdm

from data_prep import summary
from data_prep.prepare import prepare
from data_prep.text import shown, shown_lines
from ttt4rec_jax import models
from ttt4rec_jax.cli.terminal import discard_output
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.data.dataset import Dataset, load_dataset
from ttt4rec_jax.data.examples import steps_of, training_examples
from ttt4rec_jax.parallel import processes
from ttt4rec_jax.parallel.sharding import DeviceMesh
from ttt4rec_jax.pipeline import sweep, windows
from ttt4rec_jax.pipeline.devices import platform, start_devices
from ttt4rec_jax.pipeline.experiment import Experiment, fit, saved_results, train_all
from ttt4rec_jax.pipeline.resume import check_folder
from ttt4rec_jax.pipeline.search import import_optuna
from ttt4rec_jax.pipeline.search import run as search_options
from ttt4rec_jax.pipeline.search_space import Search
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import host_data, tensorboard


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
        flags: The values of every flag, which a sweep records.
        started: time.perf_counter() when the program started.

    Raises UserError, or Interrupted after everything has been saved.
    """
    config = next(iter(combinations.values()))
    parts = windows.by_data(combinations)
    mesh = start_devices(run_config, max(map(len, parts)))
    if config.record.tensorboard:
        tensorboard.check_installed()
    if len(parts) > 1:
        _run_windows(parts, run_config, root, flags, started)
        return
    if not processes.is_primary():
        _, dataset = load(config, run_config)
        if not run_config.dry_run:
            fit({"": config}, dataset, root, {"": root}, mesh, log=_silent)
        return
    experiment = open_data(config, run_config, root, mesh, started)
    if run_config.dry_run:
        print(shown_lines(dry_run(combinations, experiment.dataset, root.path)))
        return
    with root.locked():
        # Check again: another process may have started a run here in the meantime.
        check_folder(root, combinations, run_config.resume)
        log = reporter(root, combinations)
        train_all(experiment._replace(combinations=combinations, flags=flags, log=log))


def _run_windows(
    parts: list[dict[str, Config]],
    run_config: RunConfig,
    root: RunFolder,
    flags: dict[str, list],
    started: float,
) -> None:
    """Do what `run` does for the windows of a rolling split, one after the other."""
    combinations = {name: config for part in parts for name, config in part.items()}
    log = reporter(root, combinations)

    def loaded(part: dict[str, Config]) -> Experiment:
        config = next(iter(part.values()))
        experiment = open_data(config, run_config, root, None, time.perf_counter())
        return experiment._replace(combinations=part, flags=flags, log=log)

    if run_config.dry_run:
        for part in parts:
            print(shown_lines(dry_run(part, loaded(part).dataset, root.path)))
        return
    with root.locked():
        check_folder(root, combinations, run_config.resume)
        windows.train_all(map(loaded, parts), combinations)


def search(asked: Search, run_config: RunConfig, root: RunFolder, started: float) -> dict:
    """Search for the best options, and return the content of search.json.

    Raises UserError, or Interrupted after everything has been saved.
    """
    import_optuna()  # before anything is prepared or written
    config = asked.combination({name: one.first for name, one in asked.space.items()})
    mesh = start_devices(run_config, asked.batch)
    experiment = open_data(config, run_config, root, mesh, started)
    space = "\n          ".join(f"{name} {one.text()}" for name, one in asked.space.items())
    print(shown_lines(f"space     {space}"), flush=True)
    with root.locked():
        return search_options(asked, experiment._replace(log=reporter(root, ())))


def open_data(
    config: Config,
    run_config: RunConfig,
    root: RunFolder,
    mesh: DeviceMesh | None,
    started: float,
) -> Experiment:
    """Prepare, load and introduce the data; return an experiment on them without combinations.

    started: time.perf_counter() when the preparation or the program started. Raises UserError.
    """
    prepared, dataset = load(config, run_config)
    prepare_seconds = time.perf_counter() - started
    introduce(dataset, prepared, root)
    return Experiment(
        combinations={},
        flags={},
        root=root,
        dataset=dataset,
        items=catalogue.from_prepared(prepared, dataset),
        mesh=mesh,
        platform=platform(),
        started=started,
        prepare_seconds=prepare_seconds,
        log=_silent,
    )


def load(config: Config, run_config: RunConfig) -> tuple[Path, Dataset]:
    """Return the prepared folder and what is loaded of it. Raises UserError."""
    prepared = prepare(config.data, run_config.data_dir, run_config.cache_dir)
    on_host = host_data.stays_on_host(run_config.data_placement, prepared)
    return prepared, load_dataset(prepared, on_host)


def introduce(dataset: Dataset, prepared: Path, root: RunFolder) -> None:
    """Print the data, the devices and the folder."""
    placement = ", data on the host" * dataset.on_host
    print(shown_lines(f"{describe(dataset, prepared)}\nplatform  {platform()}{placement}"))
    print(shown(f"run       {root.path}"), flush=True)


def describe(dataset: Dataset, prepared: Path) -> str:
    """Return lines that describe the data."""
    manifest = dataset.manifest
    lines = [
        f"data      {manifest['name']}, sha256 {manifest['sha256'][:16]}, in {prepared}",
        *(f"          {line}" for line in summary.lines(manifest)),
    ]
    if without := dataset.users_without_negatives:
        lines.append(
            f"          {without:,} users have training clicks on every item, "
            "so they are trained without negatives"
        )
    return "\n".join(lines)


def dry_run(combinations: dict[str, Config], dataset: Dataset, root: Path) -> str:
    """Return lines that say what `run` would train in this folder; compile and write nothing."""
    folders = {name: RunFolder(root / name) for name in combinations}
    finished = saved_results(folders, combinations)
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


def reporter(root: RunFolder, names: Iterable[str]) -> Callable[[str], None]:
    """Return a function that prints a line above the progress bar, and flushes it.

    names: of the folders of the runs in `root`.

    A full disk under stdout is no reason to lose a run. A closed pipe interrupts a run, unless
    every folder has its result or its error: what is on disk is not reported as a failure.
    """
    folders = [RunFolder(root.path / name) for name in names]

    def report(line: str) -> None:
        try:
            tqdm.write(shown_lines(line))
            sys.stdout.flush()
        except BrokenPipeError:
            ended = (run.result.exists() or run.error.exists() for run in folders)
            if not all(ended):
                raise
            discard_output()
        except OSError as error:
            discard_output()
            note = f"warning: the output cannot be written ({error.strerror}); the run goes on"
            print(note, file=sys.stderr, flush=True)

    return report


def _silent(line: str) -> None:
    """Log nothing: of several processes, only the first one reports."""
