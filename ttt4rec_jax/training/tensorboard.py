"""--tensorboard: a run's epochs as event files, by tensorboardX (an extra, without TensorFlow), which nothing else imports."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, TrainConfig
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training.step import cosine


def check_installed() -> None:
    """Raises UserError if the extra is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard: tensorboardX is not installed; leave it out (with --resume: --notensorboard), or: "
            'pip install "ttt4rec_jax[tensorboard]"'
        )


def scalars(line: dict, train: TrainConfig) -> dict[str, float]:
    """{tag: value} of an epoch's line in metrics.jsonl, and Adam's learning rate at the epoch's end.

    Validation figures without their intervals; what is not known (None) is left out.
    """
    rate = train.learning_rate
    if train.schedule == "cosine":
        rate *= float(cosine(line["epoch"], train.epochs))
    found = {"train/loss": line["loss"], "train/learning_rate": rate}
    for protocol, figures in line["validation"].items():
        for name, value in figures.items():
            if not name.endswith("_ci95"):
                found[f"validation_{protocol}/{name.replace('@', '_')}"] = value  # a tag takes no @
    for depth, block in enumerate(line.get("ttt_stats", ()), 1):
        for name, values in block.items():
            found |= {
                f"ttt_{name}/block_{depth}_head_{head}": value
                for head, value in enumerate(values, 1)
            }
    return {tag: value for tag, value in found.items() if value is not None}


class EventFile:
    """A run's event file; the global step is the epoch.

    The first write begins it anew from the run's history and deletes what an earlier process left:
    so a run that was interrupted, wherever, has each epoch once, and one that is resumed with
    --tensorboard for the
    first time has them all.
    """

    def __init__(self, folder: Path, train: TrainConfig):
        self.folder = folder
        self.train = train
        self._writer = None
        self._epochs = 0

    def write(self, history: list[dict]) -> None:
        """Adds the epochs that are not written yet. history: the lines of metrics.jsonl."""
        if len(history) == self._epochs:
            return
        if self._writer is None:
            from tensorboardX import SummaryWriter  # not at the top: few runs want it

            for earlier in self.folder.glob("events.out.tfevents.*"):
                earlier.unlink()
            self._writer = SummaryWriter(str(self.folder))
        for line in history[self._epochs :]:
            for tag, value in scalars(line, self.train).items():
                self._writer.add_scalar(tag, value, line["epoch"])
        self._writer.flush()
        self._epochs = len(history)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def events(
    configs: list[Config], folders: list[RunFolder]
) -> Iterator[Callable[[list[list[dict]]], None]]:
    """A function that writes runs' histories to the event files of those that want one; they are closed at the end."""
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
