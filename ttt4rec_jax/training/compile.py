"""The one place that compiles what trains and evaluates: a Program becomes executables."""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.evaluation.evaluator import Evaluator
from ttt4rec_jax.metrics import USUAL_PROTOCOLS, cutoffs
from ttt4rec_jax.parallel.sharding import SHARED, Mesh
from ttt4rec_jax.training.host_data import HostSteps
from ttt4rec_jax.training.program import Epoch, Program, Training, make_program
from ttt4rec_jax.training.step import TrainState
from ttt4rec_jax.training.ttt_stats import TttStats


def protocols(config: Config) -> dict[str, tuple[str, ...]]:
    """Return {evaluation set: the protocols by which it is ranked}.

    A model that scores pairs takes minutes to rank the full catalogue. It is validated among
    sampled negatives only, unless a metric of the full catalogue selects the best epoch.
    """
    if not config.eval.full_catalogue:
        return dict.fromkeys(("validation", "test"), ("sampled",))
    is_two_tower = MODELS[config.model.model].is_two_tower
    is_cheap = is_two_tower or not config.eval.select_by.startswith("sampled/")
    chosen = USUAL_PROTOCOLS if config.eval.filter_seen else (*USUAL_PROTOCOLS, "unfiltered")
    return {"validation": chosen if is_cheap else ("sampled",), "test": chosen}


def make_evaluator(program: Program) -> Evaluator:
    """Return the evaluator of a program's runs, not compiled yet."""
    return Evaluator(
        program.graphdef,
        program.shapes,
        program.dataset,
        None if program.host else program.clicks,
        program.config.model.max_len,
        protocols(program.config),
        program.mesh,
        max(cutoffs(program.config.record.top_k)),
    )


class Executables:
    """A program's compiled functions; the evaluator compiles in the background on demand.

    run_steps: (state, sums, clicks, examples, *epoch, first, stop) -> (state, sums); it donates the
    buffers of the state. ttt_stats: a function of one run's parameters, None if not recorded.
    seconds: how long compilation took. started: time.perf_counter() at its start, if not now.
    """

    def __init__(self, program: Program, started: float | None = None) -> None:
        started = time.perf_counter() if started is None else started
        self.program = program
        self._first_epoch: Epoch | None = None
        config = program.config
        training = program.training
        if training is not None:
            self._begin_epoch = jax.jit(training.begin_epoch)
            self.run_steps = self._compiled_steps(training)
        self.ttt_stats = (
            TttStats(program.graphdef, program.dataset, config.model.max_len, config.model.time)
            if config.record.ttt_stats
            else None
        )
        self.seconds = time.perf_counter() - started

    def for_program(self, program: Program) -> "Executables":
        """Return these executables for a program that differs in seeds, rates, ranges or epochs."""
        other = copy.copy(self)
        other.program = program
        other._first_epoch = None
        if program.training is not None:
            other._begin_epoch = jax.jit(program.training.begin_epoch)
        return other

    @property
    def evaluate(self) -> Evaluator:
        """The evaluator, which this waits for until it is compiled."""
        return self.evaluator.result()

    @functools.cached_property
    def evaluator(self) -> "Future[Evaluator]":
        """The future evaluator; a thread starts to compile it on the first access."""
        return ThreadPoolExecutor(1).submit(self._compiled_evaluator)

    def _compiled_evaluator(self) -> Evaluator:
        program = self.program
        return make_evaluator(program).compile()

    def begin_epoch(self, epoch: int) -> Epoch:
        """Return the steps of an epoch, on the host or the devices, as the data are."""
        first = self._first_epoch
        self._first_epoch = None
        if epoch == 0 and first is not None:  # drawn already, for the shapes of a step
            return first
        steps = self._begin_epoch(epoch)
        program = self.program
        if program.host is not None or program.training is None:
            return steps
        draws = program.training.draws
        place = program.mesh.place
        return Epoch(
            place(steps.bucket_S, SHARED),
            place(steps.order_RxSxB, draws),
            place(steps.key_R, draws),
        )

    def begin_context(self, state: TrainState, epoch: int) -> TrainState:
        """Return the state at the start of an epoch, with the context that its parameters give."""
        training = self.program.training
        if training is None or training.learn_context is None:
            return state
        return state._replace(context=training.learn_context(state.params, epoch))

    def _compiled_steps(self, training: Training) -> Callable[..., Any]:
        program = self.program
        state = training.first_state
        sums = training.first_sums
        first_epoch = self.begin_epoch(0)
        self._first_epoch = first_epoch
        data = (program.clicks, training.examples, *first_epoch)
        if training.run_steps is None:
            steps = HostSteps(
                training.train_step,
                program.config,
                program.dataset.num_items,
                training.buckets,
                program.mesh,
                len(program.configs),
                training.draws == SHARED,
            )
            return steps.compile(state, sums, *data)
        run_steps = jax.jit(training.run_steps, donate_argnums=0)
        return run_steps.lower(state, sums, *data, 0, 0).compile()


def compile_runs(
    configs: Sequence[Config], dataset: Dataset, mesh: Mesh | None = None
) -> Executables:
    """Return the compiled program of runs that share one (see program.make_program)."""
    started = time.perf_counter()
    return Executables(make_program(configs, dataset, mesh), started)
