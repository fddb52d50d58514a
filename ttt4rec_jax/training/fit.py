"""Train runs to the end: validate after each epoch, keep the best, rank the test set once."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.metrics import Ranks
from ttt4rec_jax.parallel import processes
from ttt4rec_jax.parallel.sharding import RUNS
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training.compile import Executables
from ttt4rec_jax.training.interrupt import Interrupted, StopRequest
from ttt4rec_jax.training.loop import Dispatch, EpochEnd, epochs
from ttt4rec_jax.training.program import Program, Training
from ttt4rec_jax.training.progress import (
    DivergedError,
    Outcome,
    Progress,
    RunProgress,
    all_finished,
    epoch_problem,
    epoch_text,
    is_better,
    is_finished,
    summary,
)
from ttt4rec_jax.training.records import Log, Records, open_records, resumed, save
from ttt4rec_jax.training.step import EpochSums, TrainState

T = TypeVar("T")
Ranked = tuple[dict[str, Ranks], np.ndarray | None]  # ranks, and the lists if there are any
# (run, the epoch as a line of metrics.jsonl, the run's parameters after it) -> None or "stop"
OnEpoch = Callable[[int, dict[str, Any], Any], str | None]


def ignore(*arguments: Any) -> None:
    """Do nothing."""


def fit(
    executables: Executables,
    folder: RunFolder,
    run_folders: Sequence[RunFolder],
    log: Log = tqdm.write,
    on_dispatch: Callable[[Dispatch], None] = ignore,
    on_epoch: OnEpoch = ignore,
    bar: type[tqdm] | None = tqdm,
    rank_test: bool = True,
) -> list[Outcome | DivergedError]:
    """Train from the last checkpoint in `folder`, or from the start; return each run's outcome.

    run_folders: where each run's metrics and best parameters are written; for a single run,
    `folder` itself. on_epoch: called for each run after each epoch; "stop" ends that run; if it
    raises, the epoch is saved before the error propagates. bar: the class of the progress bar, None
    for no bar. rank_test: if not, outcomes have no test ranks. Raises Interrupted after everything
    has been saved, DivergedError if no run is left, and UserError.
    """
    program = executables.program
    training = program.training
    if training is None:
        return [untrained_outcome(executables)] * len(program.configs)
    with open_records(program, folder, run_folders) as records:
        state, sums, progress = resumed(program, training, records, log)
        with progress_bar(program, training, progress, bar) as shown, StopRequest() as stop:

            def after_dispatch(dispatch: Dispatch) -> None:
                show_dispatch(executables, training, shown, dispatch)
                on_dispatch(dispatch)

            loop = epochs(executables, training, state, sums, progress, stop, after_dispatch)
            for end in loop:
                state = end.state
                ended = validate(executables, end, progress, records, log) if end.is_whole else []
                try:
                    ask_to_stop(ended, end, program, progress, on_epoch)
                finally:
                    save(program, training, end, progress, records)
                if end.is_stopping and not all_finished(progress, program.configs):
                    records.last.wait()
                    raise Interrupted(
                        f"stopped in epoch {progress.epoch + 1} "
                        f"after step {progress.step} of {training.num_steps}"
                    )
            records.last.wait()
        processes.barrier("saved")
        return trained_outcomes(executables, progress, state, records, rank_test)


# --- an epoch's end


def validate(
    executables: Executables, end: EpochEnd, progress: Progress, records: Records, log: Log
) -> list[int]:
    """Evaluate each run on validation, save its best parameters, and advance the progress.

    Returns the runs that have ended the epoch. Raises DivergedError if no run is left.
    """
    ended = []
    program = executables.program
    num_runs = len(program.configs)
    num_steps = progress.step
    skipped_R = num_skipped(program.config, end.sums, num_runs)
    losses_R = np.asarray(end.sums.loss) / np.maximum(num_steps - skipped_R, 1)
    started = time.perf_counter()
    ranks_R = executables.evaluate.of_runs(end.state.params, "validation")
    seconds = {
        "seconds": progress.seconds / num_runs,
        "evaluation_seconds": (time.perf_counter() - started) / num_runs,
    }
    for r, (run, config) in enumerate(zip(progress.runs, program.configs, strict=True)):
        if is_finished(run, config):
            continue
        skipped = int(skipped_R[r])
        ranks = ranks_R[r]
        run.error = epoch_problem(ranks, skipped, num_steps, progress.epoch)
        if run.error or isinstance(ranks, ArithmeticError):
            continue
        line: dict[str, Any] = {"epoch": progress.epoch + 1, "loss": float(losses_R[r])}
        if config.train.on_nan == "skip":
            line["skipped_steps"] = skipped
        line |= {"validation": summary(ranks)} | seconds
        params = program.mesh.unstack(end.state.params, r)
        if executables.ttt_stats is not None:
            line["ttt_stats"] = executables.ttt_stats(params)
        if is_better(line, run, config.eval.select_by):
            run.best_epoch = line["epoch"]
            records.best[r].save(run.best_epoch, params)
        run.history.append(line)
        log(epoch_text(line, config, f"run {r + 1}/{num_runs}  " if num_runs > 1 else ""))
        ended.append(r)
    progress.raise_if_all_failed()
    progress.epoch += 1
    progress.step = 0
    progress.seconds = 0.0
    return ended


def ask_to_stop(
    ended: list[int], end: EpochEnd, program: Program, progress: Progress, on_epoch: OnEpoch
) -> None:
    """Call on_epoch for the runs that have ended an epoch, and note which of them it stops.

    Raises UserError if it returns anything but None or "stop".
    """
    if on_epoch is ignore:
        return
    for r in ended:
        run = progress.runs[r]
        line = copy.deepcopy(run.history[-1])
        answer = on_epoch(r, line, program.mesh.unstack(end.state.params, r))
        if answer not in (None, "stop"):
            raise UserError(f"on_epoch: returned {answer!r}, expected None or 'stop'")
        run.is_stopped = answer == "stop"


def num_skipped(config: Config, sums: EpochSums, num_runs: int) -> np.ndarray:
    """Return how many steps of an epoch each run has skipped because they were not finite [R]."""
    skipped = np.asarray(sums.skipped) if config.train.on_nan == "skip" else 0
    return np.broadcast_to(skipped, num_runs)


# --- the progress bar


def examples_in(program: Program, training: Training, steps: int) -> int:
    """Return the approximate number of examples in some steps, over all runs.

    It is not exact because the last step of each bucket is not full.
    """
    return round(training.num_examples * len(program.configs) * steps / training.num_steps)


def progress_bar(
    program: Program, training: Training, progress: Progress, bar_class: type[tqdm] | None = tqdm
) -> tqdm:
    """Return the progress bar over all epochs' examples.

    It is hidden without a class, in all processes except the first, and if stderr is not a
    terminal.
    """
    per_epoch = training.num_examples * len(program.configs)
    is_shown = bar_class is not None and processes.is_primary()
    bar = (bar_class or tqdm)(
        total=program.config.train.epochs * per_epoch,
        unit=" examples",
        unit_scale=True,
        disable=None if is_shown else True,
        smoothing=0.1,
    )
    bar.update(progress.epoch * per_epoch + examples_in(program, training, progress.step))
    return bar


def show_dispatch(
    executables: Executables, training: Training, bar: tqdm, dispatch: Dispatch
) -> None:
    """Advance the progress bar, and start to compile the evaluator while steps run.

    The compilation does not start before the first steps, which its tracing would delay.
    """
    if dispatch.first:
        _ = executables.evaluator
        loss = np.nanmean(dispatch.sums.loss) / dispatch.first
        bar.set_postfix_str(f"epoch {dispatch.epoch + 1}, loss {loss:.4f}", refresh=False)
    done, before = (
        examples_in(executables.program, training, steps)
        for steps in (dispatch.stop, dispatch.first)
    )
    bar.update(done - before)


# --- results


def untrained_outcome(executables: Executables) -> Outcome:
    """Return the outcome of a model that is not trained."""
    program = executables.program
    started = time.perf_counter()
    validation = executables.evaluate.of_runs(program.params_R, "validation")
    test_R = executables.evaluate.of_runs_with_lists(program.params_R, "test")
    test, lists = finite(test_R[0])
    seconds = {
        "compile": executables.seconds,
        "epochs": [],
        "evaluate": time.perf_counter() - started,
    }
    metrics = summary(finite(validation[0]))
    return Outcome([], 0, program.num_parameters, metrics, test, seconds, lists)


def finite(ranks: T | ArithmeticError) -> T:
    """Return the ranks; raise the error if there is one instead."""
    if isinstance(ranks, ArithmeticError):
        raise ranks
    return ranks


def trained_outcomes(
    executables: Executables,
    progress: Progress,
    state: TrainState,
    records: Records,
    rank_test: bool,
) -> list[Outcome | DivergedError]:
    """Return the runs' outcomes, with ranks of the test set by each run's best parameters."""
    program = executables.program
    num_runs = len(program.configs)
    started = time.perf_counter()
    test_R: Sequence[Ranked | ArithmeticError] = [({}, None)] * num_runs
    if rank_test:
        params_R = best_params(program, progress, state, records)
        test_R = executables.evaluate.of_runs_with_lists(params_R, "test")
    test_seconds = (time.perf_counter() - started) / num_runs

    def outcome(run: RunProgress, ranked: Ranked | ArithmeticError) -> Outcome | DivergedError:
        if run.error:
            return DivergedError(run.error)
        evaluation = [line["evaluation_seconds"] for line in run.history]
        seconds = {
            "compile": executables.seconds,
            "epochs": [line["seconds"] for line in run.history],
            "evaluate": test_seconds + sum(evaluation),
        }
        validation = run.history[run.best_epoch - 1]["validation"]
        size = program.num_parameters
        test, lists = finite(ranked)
        return Outcome(run.history, run.best_epoch, size, validation, test, seconds, lists)

    return [outcome(run, test) for run, test in zip(progress.runs, test_R, strict=True)]


def best_params(program: Program, progress: Progress, state: TrainState, records: Records) -> Any:
    """Return each run's best parameters, on the devices; its last ones if there are no better."""
    chosen = []
    for r, (run, best) in enumerate(zip(progress.runs, records.best, strict=True)):
        params = program.mesh.unstack(state.params, r)
        restored = best.load(params, run.best_epoch) if run.best_epoch else None
        chosen.append(restored[0] if restored else params)
    stacked = jax.tree.map(lambda *x: np.stack(x), *jax.device_get(chosen))
    return program.mesh.place(stacked, RUNS)
