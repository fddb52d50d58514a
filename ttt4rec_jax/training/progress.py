"""The progress of training, the outcome of a run, and the decisions at an epoch's end."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax import metrics
from ttt4rec_jax.config import Config
from ttt4rec_jax.metrics import PROTOCOLS, Ranks
from ttt4rec_jax.training.step import EpochSums

TRY_LOWER = "try a lower --learning_rate, --inner_learning_rate or --initializer_range"


class DivergedError(UserError):
    """The loss or the scores are no longer finite."""


class Outcome(NamedTuple):
    """The outcome of a run.

    history: a dict per epoch, as in metrics.jsonl. best_epoch: from 1; 0 without training.
    validation: {protocol: {metric: value}} of the best epoch. test_ranks: {protocol: ranks}.
    test_lists: the best items of the full catalogue for each test target [T, k], if it was ranked.
    """

    history: list[dict]
    best_epoch: int
    num_parameters: int
    validation: dict[str, dict[str, float]]
    test_ranks: dict[str, Ranks]
    seconds: dict
    test_lists: np.ndarray | None = None


@dataclasses.dataclass
class RunProgress:
    """The finished epochs of one run, the best of them, and why the run ended early if it did.

    error: why it failed. is_stopped: whether on_epoch asked to stop it.
    """

    history: list[dict] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    error: str = ""
    is_stopped: bool = False


@dataclasses.dataclass
class Progress:
    """The progress of training, as saved in a checkpoint.

    epoch: the number of finished epochs; step, seconds: the number of finished steps of the next
    epoch, and the time that they took.
    """

    runs: list[RunProgress]
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Progress":
        """Return the progress that `dataclasses.asdict` converted to a dict."""
        return cls(**saved | {"runs": [RunProgress(**run) for run in saved["runs"]]})

    def raise_if_all_failed(self) -> None:
        """Raise DivergedError if no run is left."""
        if all(run.error for run in self.runs):
            raise DivergedError(self.runs[0].error)


def is_finished(run: RunProgress, config: Config) -> bool:
    """Return whether a run has had all its epochs, failed, was stopped, or ran out of patience."""
    num_epochs = len(run.history)
    is_out_of_patience = 0 < config.train.patience <= num_epochs - run.best_epoch
    is_ended = bool(run.error) or run.is_stopped
    return is_ended or num_epochs >= config.train.epochs or is_out_of_patience


def all_finished(progress: Progress, configs: tuple[Config, ...]) -> bool:
    """Return whether every run is finished."""
    return all(map(is_finished, progress.runs, configs))


def summary(ranks: dict[str, Ranks]) -> dict[str, dict[str, float]]:
    """Return {protocol: {metric: value}} of ranks."""
    return {protocol: metrics.summarise(r) for protocol, r in ranks.items()}


def selected(line: dict, select_by: str) -> float:
    """Return the validation metric of an epoch that selects the best one."""
    protocol, name = select_by.split("/")
    return line["validation"][protocol][name]


def is_better(line: dict, run: RunProgress, select_by: str) -> bool:
    """Return whether an epoch is better on validation than all before it."""
    if not run.best_epoch:
        return True
    return selected(line, select_by) > selected(run.history[run.best_epoch - 1], select_by)


def last_good(epoch: int) -> str:
    """Return a text that names the last finite checkpoint. epoch: the number of finished epochs."""
    if not epoch:
        return "there is no finite checkpoint"
    return f"the last finite checkpoint is that of epoch {epoch}"


def note_divergence(progress: Progress, sums: EpochSums) -> None:
    """Mark the runs whose loss was not finite. Raises DivergedError if no other run is left.

    Waits until the steps of the sums are finished.
    """
    for run, bad_step in zip(progress.runs, np.asarray(sums.bad_step), strict=True):
        if bad_step >= 0 and not run.error:
            run.error = (
                f"the loss is not finite in epoch {progress.epoch + 1} at step {bad_step + 1}; "
                f"{last_good(progress.epoch)}; {TRY_LOWER}"
            )
    progress.raise_if_all_failed()


def epoch_problem(
    ranks: dict[str, Ranks] | ArithmeticError, num_skipped: int, num_steps: int, finished: int
) -> str:
    """Return why a run cannot continue after an epoch, "" if it can.

    finished: the number of whole epochs before it.
    """
    if isinstance(ranks, ArithmeticError):
        return f"{ranks} after epoch {finished + 1}; {last_good(finished)}"
    if num_skipped == num_steps:
        return (
            f"all {num_steps} steps of epoch {finished + 1} were skipped, none was finite; "
            f"{last_good(finished)}; {TRY_LOWER}"
        )
    return ""


def epoch_text(line: dict, config: Config, name: str = "") -> str:
    """Return an epoch's results as one line of text."""
    names = {"sampled": f"1:{config.data.eval_negatives}", "full": "full", "unfiltered": "kept"}
    metrics_texts = [
        f"{names[p]} HR@10 {values['hit@10']:.4f} NDCG@10 {values['ndcg@10']:.4f}"
        for p in PROTOCOLS
        if (values := line["validation"].get(p))
    ]
    return (
        f"{name}epoch {line['epoch']:>3}/{config.train.epochs}  loss {line['loss']:.4f}"
        f"  validation {'  '.join(metrics_texts)}  {line['seconds']:.1f} s"
    )
