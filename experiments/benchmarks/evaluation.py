r"""Measure the ranking of an evaluation set after compilation: 1:99, full catalogue, and both.

    python experiments/benchmarks/evaluation.py --dataset=beauty --data_dir=DIR \
        [--items=1000000 --users=2048] [--json=FILE]

--dataset may be any that main.py accepts; "" skips it. --items adds a generated catalogue, in a
separate process, so that its peak memory can be measured. process_mb is the peak of that process,
including parameters and program; temporary_mb is the memory that ranking needs in addition to its
arguments, including the vectors of all items. A matrix of users x items, whose size would be
float32_scores_mb, never exists.
"""

import dataclasses
import multiprocessing
import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from command_line import Figures, run
from generated import generated
from timing import interleaved, machine, show

from data_prep.prepare import prepare
from data_prep.settings import DataConfig, option
from ttt4rec_jax import models
from ttt4rec_jax.cli.command import DataFolders
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.data.dataset import Dataset, load_dataset
from ttt4rec_jax.evaluation.evaluator import Evaluator
from ttt4rec_jax.metrics import USUAL_PROTOCOLS

RANKED = {"1:99": ("sampled",), "full": ("full",), "both": USUAL_PROTOCOLS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationFlags(Figures, DataFolders):
    """The flags of evaluation.py."""

    dataset: str = option("beauty", "Any data set that main.py accepts; an empty one: none.")
    items: int = option(0, "Items of a catalogue to generate as well; 0: none.", low=0)
    users: int = option(2048, "Users to generate with it.", low=1)
    model: str = option("ttt4rec", "main.py's flag.")
    max_len: int = option(10, "Length of the histories.", low=1)
    dim: int = option(64, "Width of the model.", low=1)
    repeats: int = option(9, "Measurements of each row.", low=1)


def measure(dataset: Dataset, model: ModelConfig, repeats: int) -> list[dict]:
    """Return a row for each way to rank the data set's test users."""
    clicks = device_clicks(dataset)
    graphdef, stacked = models.split(
        model, dataset.num_items, np.zeros(1, np.uint32), *np.full((2, 1), 0.02, np.float32)
    )
    params = jax.tree.map(lambda x: x[0], stacked)
    del stacked
    evaluators = {
        name: Evaluator(
            graphdef,
            params,
            dataset,
            clicks,
            model.max_len,
            dict.fromkeys(("validation", "test"), protocols),
        )
        for name, protocols in RANKED.items()
    }

    def ranks(evaluator: Evaluator) -> Callable[[], Any]:
        return lambda: evaluator(params, "test")

    medians = interleaved(
        {name: ranks(evaluator) for name, evaluator in evaluators.items()}, repeats, warmup=1
    )
    users = len(dataset.test.positions)
    rows = []
    for name, ms in medians.items():
        memory = next(iter(evaluators[name].compiled.values())).memory_analysis()
        rows.append(
            {
                "data": dataset.manifest["name"],
                "users": users,
                "items": dataset.num_items,
                "ranked": name,
                "seconds": ms / 1e3,
                "users_per_s": round(users / ms * 1e3),
                "temporary_mb": None if memory is None else memory.temp_size_in_bytes / 1e6,
                "item_vectors_mb": 4e-6 * dataset.num_items * model.dim,
                "float32_scores_mb": 4e-6 * users * dataset.num_items,
                "process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                / (1e6 if sys.platform == "darwin" else 1e3),
            }
        )
    return rows


def measure_generated(items: int, users: int, model: ModelConfig, repeats: int) -> list[dict]:
    """Measure a generated catalogue."""
    return measure(generated(items, users, users, 99), model, repeats)


def main(flags: EvaluationFlags) -> None:
    before = machine()
    rows = []
    model = ModelConfig(model=flags.model, max_len=flags.max_len, dim=flags.dim)
    if flags.items:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows += pool.apply(
                measure_generated, (flags.items, flags.users, model, min(flags.repeats, 3))
            )
    if flags.dataset:
        folder = prepare(DataConfig(dataset=flags.dataset), flags.data_dir, flags.cache_dir)
        dataset = load_dataset(folder)
        rows = measure(dataset, model, flags.repeats) + rows
    show(rows, before, flags.json)


if __name__ == "__main__":
    sys.exit(run(__doc__, EvaluationFlags, main))
