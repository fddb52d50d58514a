"""The training loop: dispatches steps, and yields at each epoch's end or when asked to stop."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.parallel import processes
from ttt4rec_jax.training.compile import Executables
from ttt4rec_jax.training.interrupt import StopRequest
from ttt4rec_jax.training.program import Training
from ttt4rec_jax.training.progress import Progress, all_finished, note_divergence
from ttt4rec_jax.training.step import EpochSums, TrainState

FIRST_DISPATCH = 8  # steps
SECONDS_PER_DISPATCH = 0.5


class Dispatch(NamedTuple):
    """Steps first..stop-1 of an epoch, just dispatched.

    sums: those of the epoch's steps before `first`, which are finished; the device still computes
    the dispatched ones.
    """

    epoch: int
    first: int
    stop: int
    sums: EpochSums


class EpochEnd(NamedTuple):
    """Where the loop yields: at an epoch's end, or within one because it was asked to stop."""

    state: TrainState
    sums: EpochSums
    is_whole: bool
    is_stopping: bool


def epochs(
    executables: Executables,
    training: Training,
    state: TrainState,
    sums: EpochSums,
    progress: Progress,
    stop: StopRequest,
    on_dispatch: Callable[[Dispatch], None],
) -> Iterator[EpochEnd]:
    """Train until every run is finished.

    The consumer records each epoch and moves `progress` to the next one. Raises DivergedError if
    the loss of no run is finite.
    """
    configs = executables.program.configs
    while not all_finished(progress, configs):
        started = time.perf_counter()
        state, sums, is_stopping = run_epoch(
            executables, training, state, sums, progress, stop, on_dispatch
        )
        progress.seconds += time.perf_counter() - started
        is_whole = progress.step == training.num_steps
        yield EpochEnd(state, sums, is_whole, is_stopping)
        if is_whole:
            sums = training.first_sums


def run_epoch(
    executables: Executables,
    training: Training,
    state: TrainState,
    sums: EpochSums,
    progress: Progress,
    stop: StopRequest,
    on_dispatch: Callable[[Dispatch], None],
) -> tuple[TrainState, EpochSums, bool]:
    """Train from progress.step to the epoch's end, or until asked to stop.

    Returns (state, sums, whether it was asked to stop). Each dispatch aims at half a second, so
    that the progress bar moves and Ctrl-C is honoured.
    """
    clicks = executables.program.clicks
    epoch = executables.begin_epoch(progress.epoch)
    num_steps = FIRST_DISPATCH
    before = time.perf_counter()
    # longer if runs are trained in turn: each turn begins and ends with a copy of a run's state
    seconds = SECONDS_PER_DISPATCH * min(training.runs_in_turn, 4)
    if progress.step == 0:
        state = executables.begin_context(state, progress.epoch)
    while True:
        is_stopping, num_steps = processes.sync_stop(stop.asked, num_steps, after=sums)
        first = progress.step
        if first >= training.num_steps or is_stopping:
            break
        last = min(first + num_steps, training.num_steps)
        pending = sums
        state, sums = executables.run_steps(
            state, sums, clicks, training.examples, *epoch, first, last
        )
        # waits for the previous dispatch, while the device computes this one
        note_divergence(progress, pending)
        on_dispatch(Dispatch(progress.epoch, first, last, pending))
        now = time.perf_counter()
        num_steps = int(np.clip(num_steps * seconds / max(now - before, 1e-3), 1, 4 * num_steps))
        progress.step = last
        before = now
    note_divergence(progress, sums)
    return state, sums, is_stopping


def copied(state: TrainState) -> TrainState:
    """Return a copy of a state for the first step, which donates the buffers of its argument."""
    return jax.jit(lambda state: jax.tree.map(jnp.copy, state))(state)
