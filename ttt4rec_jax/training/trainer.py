"""Runs: train, judge each epoch on validation, keep the best, score the test set once. Resumes exactly.

Runs whose configurations share a program (config.program) are trained together, stacked along a
leading axis R and spread over the devices; one run is the case R = 1. What a run yields does not
depend on its company, but for
rounding.
"""

import dataclasses
import functools
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from data_prep.settings import UserError
from ttt4rec_jax import metrics, models
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.evaluation.ranking import PROTOCOLS, Evaluator, NonFiniteScoresError
from ttt4rec_jax.metrics import Ranks
from ttt4rec_jax.parallel import processes
from ttt4rec_jax.parallel.sharding import RUNS, SHARED, DeviceMesh, RunMesh
from ttt4rec_jax.runs.checkpoint import Checkpoints
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import host_data, tensorboard
from ttt4rec_jax.training.interrupt import Interrupted, StopRequest
from ttt4rec_jax.training.optim import optimizer
from ttt4rec_jax.training.step import (
    EpochSums,
    TrainState,
    make_run_steps,
    make_train_step,
    new_sums,
    stacked,
)
from ttt4rec_jax.training.ttt_stats import TttStats

FIRST_DISPATCH = 8  # steps
SECONDS_PER_DISPATCH = 0.5
TRY_LOWER = "try a lower --learning_rate, --inner_learning_rate or --initializer_range"
OF_CONTEXT = 2  # what an epoch's key is folded with to make the key of begin_context


class DivergedError(UserError):
    """The loss or the scores are no longer finite."""


class Outcome(NamedTuple):
    """What a run found: a dict an epoch, best epoch (1-based; 0: not trained), figures, test ranks, seconds."""

    history: list[dict]
    best_epoch: int
    num_parameters: int
    validation: dict[str, dict[str, float]]
    test_ranks: dict[str, Ranks]
    seconds: dict


@dataclasses.dataclass
class RunProgress:
    """One run's finished epochs, the best of them, and why it ended early if it did."""

    history: list[dict] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    error: str = ""


@dataclasses.dataclass
class Progress:
    """Where training stands, as its checkpoint says: whole epochs, steps of the one begun, seconds spent in it."""

    runs: list[RunProgress]
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def load(cls, saved: dict) -> "Progress":
        return cls(**saved | {"runs": [RunProgress(**run) for run in saved["runs"]]})


def summary(ranks: dict[str, Ranks]) -> dict[str, dict[str, float]]:
    """{protocol: {metric: value}} of ranks."""
    return {protocol: metrics.summarise(r) for protocol, r in ranks.items()}


def protocols(config: Config) -> dict[str, tuple[str, ...]]:
    """Which evaluations are made of validation and test.

    A model that scores pairs takes minutes for users x items: it is validated among sampled
    negatives, unless the full catalogue is what picks the epoch.
    """
    is_cheap = MODELS[config.model.model].separable or config.eval.select_by.startswith("full/")
    return {"validation": PROTOCOLS if is_cheap else ("sampled",), "test": PROTOCOLS}


def selected(line: dict, select_by: str) -> float:
    """The validation figure of an epoch that picks among epochs."""
    protocol, name = select_by.split("/")
    return line["validation"][protocol][name]


def shapes_of_one(params_R):
    """The shapes of one run's part of stacked parameters."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params_R)


def is_finished(run: RunProgress, config: Config) -> bool:
    """Whether a run has had all its epochs, diverged, or run out of patience."""
    epochs = len(run.history)
    return (
        bool(run.error)
        or epochs >= config.train.epochs
        or 0 < config.train.patience <= epochs - run.best_epoch
    )


class Trainer:
    """Data and compiled programs of runs that share a program, and their loop. What changes lives in `fit`'s locals.

    mesh: a sharding.DeviceMesh to spread a single run over; without one, runs are spread over the
    devices.
    """

    def __init__(self, configs: list[Config], dataset: Dataset, mesh: DeviceMesh | None = None):
        started = time.perf_counter()
        self.configs = configs
        self.dataset = dataset
        config = configs[0]
        self.is_trained = MODELS[config.model.model].trained
        self.is_skipping = config.train.on_nan == "skip"
        self.mesh = mesh or RunMesh(len(configs))
        self.host = (
            host_data.host_device() if dataset.on_host else None
        )  # the device that data stay on, if they do
        clicks = batches.device_clicks(dataset, self.host)
        examples, self.buckets = batches.training_examples(dataset, config, self.host)
        self.clicks, self.examples = (
            (clicks, examples) if self.host else self.mesh.place((clicks, examples), SHARED)
        )
        self.count = len(self.examples.ends)
        self.steps = sum(batches.steps_of(bucket) for bucket in self.buckets)
        if self.is_trained and not self.count:
            raise UserError(
                f"--dataset: {dataset.manifest['name']} has no user with two training clicks, nothing to train on"
            )
        training = models.TrainingClicks.from_dataset(dataset)
        graphdef, params = models.split(
            config.model, dataset.num_items, *self._starts(), training=training
        )
        self.mesh = self.mesh.of(params)
        self.first_params = params if self.is_trained else self.mesh.place(params, RUNS)
        self.ttt_impl = models.ttt_impl(config.model)
        self.num_parameters = sum(p.size for p in jax.tree.leaves(params)) // len(configs)
        if self.is_trained:
            self._compile(graphdef)
        self.ttt_stats = (
            TttStats(graphdef, dataset, config.model.max_len) if config.record.ttt_stats else None
        )
        shapes = shapes_of_one(params)
        placed = None if self.host else self.clicks
        arguments = (
            graphdef,
            shapes,
            dataset,
            placed,
            config.model.max_len,
            protocols(config),
            self.mesh,
        )
        self._make_evaluator = functools.partial(Evaluator, *arguments)
        self.compile_seconds = time.perf_counter() - started

    @property
    def evaluate(self) -> Evaluator:
        """Ranks of the evaluation sets under the runs' parameters."""
        return self.evaluator.result()

    @functools.cached_property
    def evaluator(self) -> Future:
        """The evaluator, which compiles in the background from when it is first asked for."""
        return ThreadPoolExecutor(1).submit(self._make_evaluator)

    def _starts(self):
        """What initial parameters depend on: seeds, initializer_ranges and fast_weight_ranges, [R] each."""
        seeds = np.array([config.train.seed for config in self.configs], np.uint32)
        ranges = [(c.model.initializer_range, c.model.w0_range) for c in self.configs]
        return seeds, *np.array(ranges, np.float32).T

    def _compile(self, graphdef) -> None:
        config = self.configs[0]
        runs = len(self.configs)
        params = self.first_params
        mesh = self.mesh
        tx = optimizer(config.train)
        rates = jnp.array([c.train.learning_rate for c in self.configs])
        context, self.begin_context = self._context(graphdef)
        self.first_state = mesh.place(
            TrainState(params, jax.jit(jax.vmap(tx.init))(params), rates, context), RUNS
        )
        # runs of one seed share each batch, which is drawn once for all
        seeds = list(dict.fromkeys(c.train.seed for c in self.configs))
        shared = len(seeds) == 1
        keys = jnp.stack(
            [jax.random.key(c.train.seed) for c in self.configs[: 1 if shared else None]]
        )
        keys = jax.device_put(keys, self.host)

        def begin_epoch(epoch):
            """(the bucket of each step, the examples of each step, keys of the steps): the last two [1 or R, ...]."""
            order_keys, step_keys = jax.vmap(
                lambda key: jax.random.split(jax.random.fold_in(key, epoch)), out_axes=1
            )(keys)
            of = batches.step_buckets(epoch, self.buckets)
            order = jax.vmap(lambda key: batches.epoch_order(key, of, self.buckets))(order_keys)
            return of, order, step_keys

        drawn = SHARED if shared else RUNS
        begin = jax.jit(begin_epoch)

        def placed_epoch(epoch):
            of, order, key = begin(epoch)
            return mesh.place(of, SHARED), mesh.place(order, drawn), mesh.place(key, drawn)

        self.begin_epoch = begin if self.host else placed_epoch
        self.first_sums = mesh.place(new_sums(config, runs), RUNS)
        train_step = make_train_step(
            graphdef, tx, config, self.dataset.num_items, config.train.epochs * self.steps
        )
        self.runs_in_turn = (
            runs // mesh.size if jax.default_backend() == "cpu" and not self.host else 1
        )
        if self.host:
            steps = host_data.HostSteps(
                train_step, config, self.dataset.num_items, self.buckets, mesh, runs, shared
            )
            arguments = (
                self.first_state,
                self.first_sums,
                self.clicks,
                self.examples,
                *self.begin_epoch(0),
            )
            self.run_steps = steps.compile(*arguments)
            return
        run_steps = make_run_steps(train_step, config, self.dataset.num_items, self.buckets, mesh)
        specs = (RUNS, RUNS, SHARED, SHARED, SHARED, drawn, drawn, SHARED, SHARED)
        self.step_function = mesh.map(
            stacked(run_steps, runs // mesh.size, shared, self.runs_in_turn > 1), specs, RUNS
        )
        arguments = (
            self.first_state,
            self.first_sums,
            self.clicks,
            self.examples,
            *self.begin_epoch(0),
            0,
            0,
        )
        self.run_steps = jax.jit(self.step_function, donate_argnums=0).lower(*arguments).compile()

    def _context(self, graphdef):
        """(what the model knows of all histories before the first epoch, (state, epoch) -> the state at an epoch's start)."""
        one = nnx.merge(graphdef, shapes_of_one(self.first_params))
        if not hasattr(one, "learn_context"):
            return (), lambda state, epoch: state
        histories = self.mesh.place(
            batches.training_histories(self.dataset, self.configs[0].model.max_len), SHARED
        )
        keys = self.mesh.place(
            jnp.stack([jax.random.key(config.train.seed) for config in self.configs]), RUNS
        )

        def learn(params_R, keys_R, histories, epoch):
            def of_run(params, key):
                own_key = jax.random.fold_in(jax.random.fold_in(key, epoch), OF_CONTEXT)
                return nnx.merge(graphdef, params).learn_context(histories, own_key)

            return jax.vmap(of_run)(params_R, keys_R)

        learn = jax.jit(self.mesh.map(learn, (RUNS, RUNS, SHARED, SHARED), RUNS))

        def begin(state: TrainState, epoch: int) -> TrainState:
            return state._replace(context=learn(state.params, keys, histories, epoch))

        first = jax.tree.map(lambda x: jnp.stack([x] * len(self.configs)), one.initial_context())
        return first, begin

    def fit(
        self, folder: RunFolder, run_folders: list[RunFolder], log=tqdm.write
    ) -> list[Outcome | DivergedError]:
        """Trains from the last checkpoint in `folder`, or from the start, to the end: an outcome a run.

        run_folders: where each run's metrics and best parameters go; for a single run, `folder`
        itself. Raises Interrupted (all saved, to be resumed), DivergedError if no run is left,
        UserError.
        """
        if not self.is_trained:
            return self._judge([RunProgress()], self.first_params, [])
        # one writer: a state is on disk only after the best parameters that it names
        is_first = processes.is_first()
        told = (
            tensorboard.events(self.configs, run_folders)
            if is_first
            else tensorboard.events([], [])
        )
        with ThreadPoolExecutor(1) as thread, told as write_events:
            writer = thread if is_first else None
            last = Checkpoints(folder.last, writer)
            best = [Checkpoints(run.best, writer) for run in run_folders]
            state, progress = self._train(last, best, run_folders, write_events, log)
            processes.wait_for_all("saved")
            return self._judge(progress.runs, state.params, best)

    def _train(
        self,
        last: Checkpoints,
        best: list[Checkpoints],
        run_folders: list[RunFolder],
        write_events,
        log,
    ):
        """(last state, progress) once all runs are finished."""
        config = self.configs[0]
        runs = len(self.configs)
        state = self.first_state
        sums = self.first_sums
        progress = Progress([RunProgress() for _ in self.configs])
        if (
            restored := last.load(
                self.mesh.gather((state, sums)), check=lambda saved: missing_best(saved, best)
            )
        ) is not None:
            (state, sums) = self.mesh.place(restored[0], RUNS)
            progress = Progress.load(restored[1])
            last.forget_after(progress.epoch * self.steps + progress.step)
            for checkpoints in best:
                checkpoints.forget_after(progress.epoch)
            if processes.is_first():
                write_events([run.history for run in progress.runs])
            self._tell_of_lost(run_folders, progress, log)
            log(f"resumed after epoch {progress.epoch}, step {progress.step} of {self.steps}")
        else:
            self._tell_of_lost(run_folders, progress, log)
            # the first step takes the buffers that it is given
            state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))(state)
        total = config.train.epochs * self.count * runs
        hidden = None if processes.is_first() else True  # None: where nobody looks
        bar = tqdm(total=total, unit=" examples", unit_scale=True, disable=hidden, smoothing=0.1)
        bar.update(progress.epoch * self.count * runs + self._examples_in(progress.step))
        with bar, StopRequest() as stop:
            while not all(map(is_finished, progress.runs, self.configs)):
                started = time.perf_counter()
                progress.step, state, sums, asked_to_stop = self._run_epoch(
                    progress, state, sums, bar, stop
                )
                progress.seconds += time.perf_counter() - started
                if progress.step == self.steps:
                    self._end_epoch(state, sums, progress, best, log)
                    sums = self.first_sums
                saved = dataclasses.asdict(progress)
                last.save(
                    progress.epoch * self.steps + progress.step,
                    self.mesh.gather((state, sums)),
                    saved,
                )
                if processes.is_first():
                    for folder, run in zip(run_folders, progress.runs, strict=True):
                        folder.write_metrics(run.history)
                    write_events([run.history for run in progress.runs])
                if asked_to_stop and not all(map(is_finished, progress.runs, self.configs)):
                    last.wait()
                    raise Interrupted(
                        f"stopped in epoch {progress.epoch + 1} after step {progress.step} of {self.steps}"
                    )
            last.wait()
        return state, progress

    @staticmethod
    def _tell_of_lost(run_folders: list[RunFolder], progress: Progress, log) -> None:
        """Says so if metrics.jsonl knows of epochs that no checkpoint holds: cut off while it was saved, or removed."""
        if (told := max(folder.epochs_told() for folder in run_folders)) > progress.epoch:
            log(
                f"no whole checkpoint of epoch {told}, which metrics.jsonl tells of: going on from epoch {progress.epoch}"
            )

    def _examples_in(self, steps: int) -> int:
        """How many examples of all runs so many steps hold; about, since a bucket's last step is not full."""
        return round(self.count * len(self.configs) * steps / self.steps)

    def _run_epoch(
        self, progress: Progress, state: TrainState, sums: EpochSums, bar: tqdm, stop: StopRequest
    ):
        """Trains from the step that progress is at to the epoch's end, or to where `stop` asks: (step, state, sums, asked)."""
        epoch = progress.epoch
        step = progress.step
        order = self.begin_epoch(epoch)
        chunk = FIRST_DISPATCH
        before = time.perf_counter()
        if step == 0:
            state = self.begin_context(state, epoch)
        while True:
            asked, chunk = processes.agree(stop.asked, chunk, after=sums)
            if step >= self.steps or asked:
                break
            end = min(step + chunk, self.steps)
            pending = sums
            state, sums = self.run_steps(state, sums, self.clicks, self.examples, *order, step, end)
            self._check_finite(
                progress, pending
            )  # waits for the dispatch before, while the device computes this one
            if step:
                _ = (
                    self.evaluator
                )  # it compiles while steps run; before the first, its tracing would hold that up
                bar.set_postfix_str(
                    f"epoch {epoch + 1}, loss {np.nanmean(pending.loss) / step:.4f}", refresh=False
                )
            bar.update(self._examples_in(end) - self._examples_in(step))
            now = time.perf_counter()
            seconds = SECONDS_PER_DISPATCH * min(
                self.runs_in_turn, 4
            )  # a run's turn begins and ends with a copy of its state
            chunk = int(np.clip(chunk * seconds / max(now - before, 1e-3), 1, 4 * chunk))
            step = end
            before = now
        self._check_finite(progress, sums)
        return step, state, sums, asked

    def _check_finite(self, progress: Progress, sums: EpochSums) -> None:
        """Notes which runs have diverged; the others go on. Raises DivergedError if none is left."""
        for run, bad_step in zip(progress.runs, np.asarray(sums.bad_step), strict=True):
            if bad_step >= 0 and not run.error:
                run.error = (
                    f"the loss is not finite in epoch {progress.epoch + 1} at step {bad_step + 1}; "
                    f"{last_good(progress.epoch)}; {TRY_LOWER}"
                )
        if all(run.error for run in progress.runs):
            raise DivergedError(progress.runs[0].error)

    def _end_epoch(
        self, state: TrainState, sums: EpochSums, progress: Progress, best: list[Checkpoints], log
    ) -> None:
        """Judges each run's parameters on validation, saves those that are its best, and moves progress on."""
        skipped = np.broadcast_to(
            np.asarray(sums.skipped) if self.is_skipping else 0, len(self.configs)
        )
        losses = np.asarray(sums.loss) / np.maximum(self.steps - skipped, 1)
        started = time.perf_counter()
        ranks = self.evaluate.of_runs(state.params, "validation")
        evaluation_seconds = (time.perf_counter() - started) / len(self.configs)
        for r, (run, config) in enumerate(zip(progress.runs, self.configs, strict=True)):
            if is_finished(run, config):
                continue
            if isinstance(ranks[r], NonFiniteScoresError):
                run.error = (
                    f"{ranks[r]} after epoch {progress.epoch + 1}; {last_good(progress.epoch)}"
                )
                continue
            if skipped[r] == self.steps:
                run.error = (
                    f"all {self.steps} steps of epoch {progress.epoch + 1} were skipped, none was finite; "
                    f"{last_good(progress.epoch)}; {TRY_LOWER}"
                )
                continue
            line = {
                "epoch": progress.epoch + 1,
                "loss": float(losses[r]),
                **({"skipped_steps": int(skipped[r])} if self.is_skipping else {}),
                "validation": summary(ranks[r]),
                "seconds": progress.seconds / len(self.configs),
                "evaluation_seconds": evaluation_seconds,
            }
            if self.ttt_stats is not None:
                line["ttt_stats"] = self.ttt_stats(self.mesh.run(state.params, r))
            select_by = config.eval.select_by
            before = run.history[run.best_epoch - 1] if run.best_epoch else None
            if before is None or selected(line, select_by) > selected(before, select_by):
                run.best_epoch = line["epoch"]
                best[r].save(run.best_epoch, self.mesh.run(state.params, r))
            run.history.append(line)
            log(
                epoch_line(
                    line,
                    config,
                    f"run {r + 1}/{len(self.configs)}  " if len(self.configs) > 1 else "",
                )
            )
        if all(run.error for run in progress.runs):
            raise DivergedError(progress.runs[0].error)
        progress.epoch = progress.epoch + 1
        progress.step = 0
        progress.seconds = 0.0

    def _judge(
        self, runs: list[RunProgress], params_R, best: list[Checkpoints]
    ) -> list[Outcome | DivergedError]:
        """The figures of the runs' chosen parameters: validation again, and the test set for the first and only time."""
        if best:
            params = [self.mesh.run(params_R, r) for r in range(len(runs))]
            chosen = [
                b.load(p, run.best_epoch)[0] if run.best_epoch else p
                for run, b, p in zip(runs, best, params, strict=True)
            ]
            params_R = self.mesh.place(
                jax.tree.map(lambda *x: np.stack(x), *jax.device_get(chosen)), RUNS
            )
        started = time.perf_counter()
        validation, test = (
            self.evaluate.of_runs(params_R, name) for name in ("validation", "test")
        )
        judging = (time.perf_counter() - started) / len(runs)

        def outcome(r: int, run: RunProgress):
            if run.error:
                return DivergedError(run.error)
            seconds = {
                "compile": self.compile_seconds,
                "epochs": [line["seconds"] for line in run.history],
                "evaluate": judging + sum(line["evaluation_seconds"] for line in run.history),
            }
            return Outcome(
                run.history,
                run.best_epoch,
                self.num_parameters,
                summary(validation[r]),
                test[r],
                seconds,
            )

        return [outcome(r, run) for r, run in enumerate(runs)]


def missing_best(saved: dict, best: list[Checkpoints]) -> str:
    """What is wrong with the best parameters that a saved progress names, without which it is of no use; "" if nothing."""
    for run, found in zip(saved["runs"], best, strict=True):
        if (epoch := run["best_epoch"]) and (problem := found.problem(epoch)):
            return f"it needs {found.folder / str(epoch)}, {problem}"
    return ""


def last_good(epoch: int) -> str:
    """Which checkpoint is the last finite one, after so many whole epochs."""
    return (
        f"the last finite checkpoint is that of epoch {epoch}"
        if epoch
        else "there is no finite checkpoint"
    )


def epoch_line(line: dict, config: Config, name: str = "") -> str:
    """An epoch in one line."""
    names = {"sampled": f"1:{config.data.eval_negatives}", "full": "full"}
    figures = [
        f"{names[p]} HR@10 {f['hit@10']:.4f} NDCG@10 {f['ndcg@10']:.4f}"
        for p in PROTOCOLS
        if (f := line["validation"].get(p))
    ]
    return (
        f"{name}epoch {line['epoch']:>3}/{config.train.epochs}  loss {line['loss']:.4f}"
        f"  validation {'  '.join(figures)}  {line['seconds']:.1f} s"
    )
