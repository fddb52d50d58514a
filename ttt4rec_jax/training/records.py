"""What training writes to disk, and resuming from it: checkpoints, metrics.jsonl, event files."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ttt4rec_jax.parallel import processes
from ttt4rec_jax.parallel.sharding import RUNS
from ttt4rec_jax.runs.checkpoint import Checkpoints
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import tensorboard
from ttt4rec_jax.training.loop import EpochEnd, copied
from ttt4rec_jax.training.program import Program, Training
from ttt4rec_jax.training.progress import Progress, RunProgress
from ttt4rec_jax.training.step import EpochSums, TrainState

Log = Callable[[str], None]


class Records(NamedTuple):
    """Where training is recorded: checkpoints of the last state and best parameters, and files."""

    last: Checkpoints
    best: list[Checkpoints]
    run_folders: Sequence[RunFolder]
    write_events: Callable[[list[list[dict]]], None]


@contextlib.contextmanager
def open_records(
    program: Program, folder: RunFolder, run_folders: Sequence[RunFolder]
) -> Iterator[Records]:
    """Open the records of a training; of several processes, only the first one writes."""
    is_primary = processes.is_primary()
    events = (
        tensorboard.events(program.configs, run_folders)
        if is_primary
        else tensorboard.events([], [])
    )
    # one writer thread: a state is on disk only after the best parameters that it names
    with ThreadPoolExecutor(1) as thread, events as write_events:
        writer = thread if is_primary else None
        last = Checkpoints(folder.last, writer)
        best = [Checkpoints(run_folder.best, writer) for run_folder in run_folders]
        yield Records(last, best, run_folders, write_events)


def resumed(
    program: Program, training: Training, records: Records, log: Log
) -> tuple[TrainState, EpochSums, Progress]:
    """Return (state, sums, progress) of the last usable checkpoint, or the initial ones."""
    mesh = program.mesh
    first = (training.first_state, training.first_sums)
    saved = records.last.load(
        mesh.gather(first), check=lambda progress: missing_best(progress, records.best)
    )
    if saved is None:
        progress = Progress([RunProgress() for _ in program.configs])
        warn_if_lost(records.run_folders, progress, log)
        return copied(training.first_state), training.first_sums, progress
    state, sums = mesh.place(saved[0], RUNS)
    progress = Progress.from_dict(saved[1])
    records.last.forget_after(progress.epoch * training.num_steps + progress.step)
    for checkpoints in records.best:
        checkpoints.forget_after(progress.epoch)
    if processes.is_primary():
        records.write_events([run.history for run in progress.runs])
    warn_if_lost(records.run_folders, progress, log)
    log(f"resumed after epoch {progress.epoch}, step {progress.step} of {training.num_steps}")
    return state, sums, progress


def missing_best(saved: dict, best: Sequence[Checkpoints]) -> str:
    """Return what is wrong with the best parameters that a saved progress needs, or ""."""
    for run, checkpoints in zip(saved["runs"], best, strict=True):
        epoch = run["best_epoch"]
        if epoch and (problem := checkpoints.problem(epoch)):
            return f"it needs {checkpoints.folder / str(epoch)}, {problem}"
    return ""


def warn_if_lost(run_folders: Sequence[RunFolder], progress: Progress, log: Log) -> None:
    """Log a warning if metrics.jsonl has epochs that no checkpoint holds."""
    logged = max(folder.epochs_logged() for folder in run_folders)
    if logged > progress.epoch:
        log(
            f"metrics.jsonl has epoch {logged}, but there is no usable checkpoint of it; "
            f"training continues from epoch {progress.epoch}"
        )


def save(
    program: Program, training: Training, end: EpochEnd, progress: Progress, records: Records
) -> None:
    """Save a checkpoint of the training state, and write the files by epoch."""
    sums = training.first_sums if end.is_whole else end.sums
    step = progress.epoch * training.num_steps + progress.step
    tree = program.mesh.gather((end.state, sums))
    records.last.save(step, tree, dataclasses.asdict(progress))
    if processes.is_primary():
        for folder, run in zip(records.run_folders, progress.runs, strict=True):
            folder.write_metrics(run.history)
        records.write_events([run.history for run in progress.runs])
