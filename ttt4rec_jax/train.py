"""A run: train, judge each epoch on validation, keep the best, score the test set once. Resumes exactly."""

import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data_prep.settings import UserError
from ttt4rec_jax import data, metrics, models
from ttt4rec_jax.checkpoint import Checkpoints
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.evaluate import Evaluator, NonFiniteScoresError
from ttt4rec_jax.interrupt import Interrupted, StopRequest
from ttt4rec_jax.metrics import Ranks
from ttt4rec_jax.optim import optimizer
from ttt4rec_jax.run_folder import RunFolder
from ttt4rec_jax.train_step import EpochSums, TrainState, make_run_steps, make_train_step, new_sums

FIRST_DISPATCH = 8  # steps
SECONDS_PER_DISPATCH = 0.5


class DivergedError(UserError):
    """The loss or the scores are no longer finite."""


class Outcome(NamedTuple):
    """What a run found: a dict an epoch, best epoch (1-based; 0: not trained), figures, test ranks, seconds an epoch."""

    history: list[dict]
    best_epoch: int
    num_parameters: int
    validation: dict[str, dict[str, float]]
    test_ranks: dict[str, Ranks]
    seconds: dict


@dataclasses.dataclass
class Progress:
    """Where a run stands, as its checkpoint says: whole epochs, steps of the one begun, seconds spent in it."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    history: list[dict] = dataclasses.field(default_factory=list)


def summary(ranks: dict[str, Ranks]) -> dict[str, dict[str, float]]:
    """{protocol: {metric: value}} of ranks."""
    return {protocol: metrics.summarise(r) for protocol, r in ranks.items()}


def selected(line: dict, select_by: str) -> float:
    """The validation figure of an epoch that picks among epochs."""
    protocol, name = select_by.split("/")
    return line["validation"][protocol][name]


def is_finished(progress: Progress, config: Config) -> bool:
    """Whether all epochs are done, or patience has run out."""
    waited = progress.epoch - progress.best_epoch
    return progress.epoch >= config.train.epochs or 0 < config.train.patience <= waited


class Trainer:
    """One run's data and compiled programs, and its loop. What changes lives in `fit`'s locals and in checkpoints."""

    def __init__(self, config: Config, dataset: data.Dataset):
        started = time.perf_counter()
        self.config, self.dataset = config, dataset
        self.clicks = data.device_clicks(dataset)
        self.examples, self.buckets = data.training_examples(dataset, config)
        graphdef, params = models.split(config.model, dataset, config.train.seed)
        self.num_parameters = sum(p.size for p in jax.tree.leaves(params))
        self.key = jax.random.key(config.train.seed)
        self.is_trained = MODELS[config.model.model].trained
        self.evaluate = Evaluator(graphdef, params, dataset, self.clicks, config.model.max_len)
        tx = optimizer(config.train)
        self.first_state = TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))
        self.count, size = len(self.examples.ends), config.train.batch_size
        self.steps = sum(-(-(bucket.stop - bucket.first) // size) for bucket in self.buckets)
        if self.is_trained:
            if not self.count:
                raise UserError(
                    f"--dataset: {dataset.manifest['name']} has no user with two training clicks, nothing to train on"
                )
            train_step = make_train_step(graphdef, tx, config, dataset.num_items)
            self.shuffle = jax.jit(lambda epoch: data.epoch_order(self.key, epoch, self.buckets, size))
            arguments = (self.first_state, new_sums(), self.clicks, self.examples, self.shuffle(0), self.key, 0, 0)
            run_steps = jax.jit(make_run_steps(train_step, config, dataset.num_items, self.buckets), donate_argnums=0)
            self.run_steps = run_steps.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - started

    def fit(self, folder: RunFolder, log=tqdm.write) -> Outcome:
        """Trains from the folder's last checkpoint, or from the start, to the end.

        Raises Interrupted (all saved, to be resumed), DivergedError, UserError.
        """
        checkpoints = Checkpoints(folder.checkpoints)
        try:
            params, progress = self._train(folder, checkpoints, log)
            if progress.best_epoch:
                params = checkpoints.load_best(params)
            return self._judge(params, progress)
        finally:
            checkpoints.close()

    def _train(self, folder: RunFolder, checkpoints: Checkpoints, log):
        """(last parameters, progress) once all epochs are done."""
        state, sums, progress = self.first_state, new_sums(), Progress()
        if not self.is_trained:
            return state.params, progress
        if (restored := checkpoints.load_last((state, sums))) is not None:
            (state, sums), progress = restored[0], Progress(**restored[1])
            checkpoints.forget_best_after(progress.epoch)
            log(f"resumed after epoch {progress.epoch}, step {progress.step} of {self.steps}")
        else:
            state = jax.tree.map(jnp.copy, state)  # the first step takes the buffers that it is given
        bar = tqdm(total=self.config.train.epochs * self.count, unit=" examples", unit_scale=True, disable=None, smoothing=0.1)
        bar.update(progress.epoch * self.count + round(self.count * progress.step / max(self.steps, 1)))
        with bar, StopRequest() as stop:
            while not is_finished(progress, self.config):
                started = time.perf_counter()
                progress.step, state, sums = self._run_epoch(progress.epoch, progress.step, state, sums, bar, stop)
                if progress.step == self.steps:
                    self._end_epoch(state, sums, progress, progress.seconds + time.perf_counter() - started)
                    sums = new_sums()
                    if progress.best_epoch == progress.epoch:
                        checkpoints.save_best(progress.epoch, state.params)
                    log(epoch_line(progress.history[-1], self.config))
                else:
                    progress.seconds += time.perf_counter() - started
                checkpoints.save_last(int(state.step), (state, sums), dataclasses.asdict(progress))
                folder.write_metrics(progress.history)
                if stop.asked and not is_finished(progress, self.config):
                    checkpoints.wait()
                    raise Interrupted(f"stopped in epoch {progress.epoch + 1} after step {progress.step} of {self.steps}")
        return state.params, progress

    def _run_epoch(self, epoch: int, step: int, state: TrainState, sums: EpochSums, bar: tqdm, stop: StopRequest):
        """Trains from `step` of an epoch to its end, or to where `stop` asks: (step, state, sums)."""

        def examples_in(steps):  # about: a bucket's last step is not full
            return round(self.count * steps / self.steps)

        order, chunk, before = self.shuffle(epoch), FIRST_DISPATCH, time.perf_counter()
        while step < self.steps and not stop.asked:
            end = min(step + chunk, self.steps)
            pending = sums
            state, sums = self.run_steps(state, sums, self.clicks, self.examples, order, self.key, step, end)
            self._check_finite(epoch, pending)  # waits for the dispatch before, while the device computes this one
            if step:
                bar.set_postfix_str(f"epoch {epoch + 1}, loss {float(pending.loss) / step:.4f}", refresh=False)
            bar.update(examples_in(end) - examples_in(step))
            now = time.perf_counter()
            chunk = int(np.clip(chunk * SECONDS_PER_DISPATCH / max(now - before, 1e-3), 1, 4 * chunk))
            step, before = end, now
        self._check_finite(epoch, sums)
        return step, state, sums

    def _check_finite(self, epoch: int, sums: EpochSums) -> None:
        if int(sums.bad_step) >= 0:
            raise DivergedError(
                f"the loss is not finite in epoch {epoch + 1} at step {int(sums.bad_step) + 1}; {self._last_good(epoch)}"
                "try a lower --learning_rate, --inner_learning_rate or --initializer_range"
            )

    @staticmethod
    def _last_good(epoch: int) -> str:
        return f"the last finite checkpoint is that of epoch {epoch}; " if epoch else "there is no finite checkpoint; "

    def _end_epoch(self, state: TrainState, sums: EpochSums, progress: Progress, seconds: float) -> None:
        """Judges the parameters on validation and moves progress to the next epoch."""
        started = time.perf_counter()
        try:
            validation = summary(self.evaluate(state.params, "validation"))
        except NonFiniteScoresError as error:
            raise DivergedError(f"{error} after epoch {progress.epoch + 1}; {self._last_good(progress.epoch)}") from error
        line = {
            "epoch": progress.epoch + 1,
            "loss": float(sums.loss) / self.steps,
            "validation": validation,
            "seconds": seconds,
            "evaluation_seconds": time.perf_counter() - started,
        }
        best = progress.history[progress.best_epoch - 1] if progress.best_epoch else None
        select_by = self.config.eval.select_by
        if best is None or selected(line, select_by) > selected(best, select_by):
            progress.best_epoch = line["epoch"]
        progress.history.append(line)
        progress.epoch, progress.step, progress.seconds = line["epoch"], 0, 0.0

    def _judge(self, params, progress: Progress) -> Outcome:
        """The figures of the chosen parameters: validation again, and the test set for the first and only time."""
        started = time.perf_counter()
        validation = summary(self.evaluate(params, "validation"))
        test_ranks = self.evaluate(params, "test")
        seconds = {
            "compile": self.compile_seconds,
            "epochs": [line["seconds"] for line in progress.history],
            "evaluate": time.perf_counter() - started + sum(line["evaluation_seconds"] for line in progress.history),
        }
        return Outcome(progress.history, progress.best_epoch, self.num_parameters, validation, test_ranks, seconds)


def epoch_line(line: dict, config: Config) -> str:
    """An epoch in one line."""
    s, f = line["validation"]["sampled"], line["validation"]["full"]
    return (
        f"epoch {line['epoch']:>3}/{config.train.epochs}  loss {line['loss']:.4f}"
        f"  validation 1:{config.data.eval_negatives} HR@10 {s['hit@10']:.4f} NDCG@10 {s['ndcg@10']:.4f}"
        f"  full HR@10 {f['hit@10']:.4f} NDCG@10 {f['ndcg@10']:.4f}  {line['seconds']:.1f} s"
    )
