"""--tensorboard: a run's epochs as event files. Only this module imports tensorboardX, an extra."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, TrainConfig
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training.optim import cosine_schedule


def check_installed() -> None:
    """Raise UserError if the extra is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard: tensorboardX is not installed; leave the flag out "
            "(with --resume: --notensorboard), or install it: "
            'pip install "ttt4rec_jax[tensorboard]"'
        )


def scalars(line: dict[str, Any], train: TrainConfig) -> dict[str, float]:
    """Return {tag: value} of an epoch: its line in metrics.jsonl, and its last learning rate.

    Confidence intervals and unknown values (None) are left out.
    """
    rate = train.learning_rate
    if train.schedule == "cosine":
        rate *= float(cosine_schedule(train.epochs)(line["epoch"]))
    values = {"train/loss": line["loss"], "train/learning_rate": rate}
    for protocol, metrics in line["validation"].items():
        for name, value in metrics.items():
            if not name.endswith("_ci95"):
                # TensorBoard allows no @ in a tag
                values[f"validation_{protocol}/{name.replace('@', '_')}"] = value
    for depth, block in enumerate(line.get("ttt_stats", ()), 1):
        for name, by_head in block.items():
            for head, value in enumerate(by_head, 1):
                values[f"ttt_{name}/block_{depth}_head_{head}"] = value
    return {tag: value for tag, value in values.items() if value is not None}


class EventFile:
    """A run's event file; the global step is the epoch.

    The first write deletes the files of earlier processes and rewrites the run's history. So each
    epoch of an interrupted run appears once, and a run resumed with --tensorboard for the first
    time has all of its epochs.
    """

    def __init__(self, folder: Path, train: TrainConfig) -> None:
        self.folder = folder
        self.train = train
        self._writer: Any = None
        self._epochs = 0

    def write(self, history: list[dict[str, Any]]) -> None:
        """Add the epochs that are not written yet. history: the lines of metrics.jsonl."""
        if len(history) == self._epochs:
            return
        if self._writer is None:
            from tensorboardX import SummaryWriter  # an extra, which few runs need

            for earlier in self.folder.glob("events.out.tfevents.*"):
                earlier.unlink()
            self._writer = SummaryWriter(str(self.folder))
        for line in history[self._epochs :]:
            for tag, value in scalars(line, self.train).items():
                self._writer.add_scalar(tag, value, line["epoch"])
        self._writer.flush()
        self._epochs = len(history)

    def close(self) -> None:
        """Close the file, if one was opened."""
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def events(
    configs: Sequence[Config], folders: Sequence[RunFolder]
) -> Iterator[Callable[[list[list[dict]]], None]]:
    """Yield a function that writes runs' histories to their event files, if they want one."""
    runs = zip(configs, folders, strict=True)
    files = [
        EventFile(folder.tensorboard, config.train) if config.record.tensorboard else None
        for config, folder in runs
    ]

    def write(histories: list[list[dict]]) -> None:
        for file, history in zip(files, histories, strict=True):
            if file is not None:
                file.write(history)

    try:
        yield write
    finally:
        for file in files:
            if file is not None:
                file.close()
