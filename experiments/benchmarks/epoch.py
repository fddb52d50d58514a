r"""Measure a training epoch after compilation, in settings in which other libraries are measured.

    python experiments/benchmarks/epoch.py --data_dir=DIR \
        [--cases=beauty-sasrec,ml1m-paper] [--json=FILE]

The cases of one data set take turns, so that a change of the machine's speed affects all of them.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence

import jax
from command_line import Figures, check_names, run
from timing import machine, show

from data_prep.prepare import prepare
from data_prep.settings import DataConfig, option
from ttt4rec_jax.cli.command import DataFolders
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data.dataset import Dataset, load_dataset
from ttt4rec_jax.pipeline import presets
from ttt4rec_jax.training.compile import compile_runs
from ttt4rec_jax.training.loop import copied


def best(model: str, dataset: str) -> tuple[str, dict, dict]:
    """Return the case of a model's best recipe for a data set."""
    values = presets.values("best", model, dataset)
    of_model, of_training = (
        {name: values[name] for name in values.keys() & {f.name for f in dataclasses.fields(part)}}
        for part in (ModelConfig, TrainConfig)
    )
    return dataset, of_model | {"model": model}, of_training


EVERY = {"targets": "every", "num_negatives": 1}
SHAPE = {"max_len": 50, "num_blocks": 2, "dropout": 0.2}
CASES: dict[str, tuple[str, dict, dict]] = {  # data set, model and training settings
    "beauty-sasrec": ("beauty", {"model": "sasrec"} | SHAPE, EVERY),
    "beauty-sasrec-padded": ("beauty", {"model": "sasrec"} | SHAPE, EVERY | {"length_buckets": 1}),
    "beauty-ttt-b1": ("beauty", {"mini_batch_size": 1} | SHAPE, EVERY),
    "beauty-ttt-bN": ("beauty", {"mini_batch_size": 50} | SHAPE, EVERY),
    "beauty-ttt-b10": ("beauty", {"mini_batch_size": 10} | SHAPE, EVERY),
    "beauty-paper": ("beauty", {}, {}),
    "beauty-ttt-best": best("ttt4rec", "beauty"),
    "beauty-sasrec-best": best("sasrec", "beauty"),
    "ml1m-sasrec-200": ("ml1m", {"model": "sasrec"} | SHAPE | {"max_len": 200}, EVERY),
    "ml1m-ttt-200-b10": ("ml1m", {"mini_batch_size": 10} | SHAPE | {"max_len": 200}, EVERY),
    "ml1m-paper": ("ml1m", {}, {}),
    "ml1m-paper-no-ffn": ("ml1m", {"ffn": "none"}, {}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochFlags(Figures, DataFolders):
    """The flags of epoch.py."""

    cases: str = option(",".join(CASES), "Cases to measure, separated by commas; default: all.")
    repeats: int = option(3, "Epochs of each case.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("cases", self.cases, CASES)


class Case:
    """A case's trainer and state between epochs.

    more_model, more_train: settings that replace those of CASES. runs: for stacked runs, the
    settings of the model that are each run's own.
    """

    def __init__(
        self,
        name: str,
        dataset: Dataset,
        more_model: dict | None = None,
        more_train: dict | None = None,
        runs: Sequence[dict] = ({},),
    ) -> None:
        _, model, train = CASES[name]
        model = model | (more_model or {})
        self.name = name
        self.epochs = 0
        self.seconds: list[float] = []
        config = TrainConfig(**(train | (more_train or {})))
        configs = [Config(model=ModelConfig(**(model | own)), train=config) for own in runs]
        self.executables = compile_runs(configs, dataset)
        self.training = self.executables.program.training
        self.state = copied(self.training.first_state)

    def epoch(self) -> None:
        """Train an epoch and record its seconds."""
        training = self.training
        started = time.perf_counter()
        order = self.executables.begin_epoch(self.epochs)
        data = (self.executables.program.clicks, training.examples)
        self.state, sums = self.executables.run_steps(
            self.state, training.first_sums, *data, *order, 0, training.num_steps
        )
        jax.block_until_ready(sums)
        self.seconds.append(time.perf_counter() - started)
        self.epochs += 1

    def row(self) -> dict:
        """Return the case's row of the table."""
        median = sorted(self.seconds)[len(self.seconds) // 2]
        targets = int(self.training.examples.counts.sum())
        return {
            "case": self.name,
            "lengths": "/".join(str(bucket.length) for bucket in self.training.buckets),
            "steps": self.training.num_steps,
            "s_per_epoch": median,
            "fastest": min(self.seconds),
            "slowest": max(self.seconds),
            "targets_per_s": targets / median,
        }


def take_turns(cases: Sequence[Case], repeats: int) -> None:
    """Train `repeats` epochs of each case in turns."""
    for _ in range(repeats):
        for case in cases:
            case.epoch()


def main(flags: EpochFlags) -> None:
    names = flags.cases.split(",")
    rows = []
    before = machine()
    for data in dict.fromkeys(CASES[name][0] for name in names):
        folder = prepare(DataConfig(dataset=data), flags.data_dir, flags.cache_dir)
        dataset = load_dataset(folder)
        cases = [Case(name, dataset) for name in names if CASES[name][0] == data]
        take_turns(cases, flags.repeats)
        rows += [case.row() for case in cases]
    show(rows, before, flags.json)


if __name__ == "__main__":
    sys.exit(run(__doc__, EpochFlags, main))
