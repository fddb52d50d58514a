"""Measure the ranking of an evaluation set after compilation: 1:99, full catalogue, and both.

    python experiments/benchmarks/evaluation.py --dataset=beauty --data_dir=DIR \
        [--items=1000000 --users=2048] [--json=FILE]

--dataset may be any that main.py accepts; "" skips it. --items adds a generated catalogue, in a
separate process, so that its peak memory can be measured. process_mb is the peak of that process,
including parameters and program; temporary_mb is the memory that ranking needs in addition to its
arguments, including the vectors of all items. A matrix of users x items, whose size would be
float32_scores_mb, never exists.
"""

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from timing import interleaved, machine, show

from data_prep.prepare import prepare
from data_prep.settings import DataConfig
from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.dataset import Dataset, Targets, load_dataset
from ttt4rec_jax.evaluation.evaluator import Evaluator
from ttt4rec_jax.metrics import PROTOCOLS

RANKED = {"1:99": ("sampled",), "full": ("full",), "both": PROTOCOLS}


def generated(num_items: int, num_users: int, num_negatives: int = 99) -> Dataset:
    """Return users of 3 to 60 clicks on items drawn uniformly.

    Negatives may be clicked items, which makes no difference to the cost.
    """
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(3, 61, num_users))])
    items = rng.integers(1, num_items + 1, offsets[-1]).astype(np.int32)
    negatives = rng.integers(1, num_items + 1, (num_users, num_negatives)).astype(np.int32)
    targets = Targets(
        (offsets[1:] - 1).astype(np.int32), np.arange(num_users, dtype=np.int32), negatives
    )
    manifest = {"name": f"{num_items:,} items", "counts": {"items": num_items}}
    return Dataset(manifest, items, offsets, offsets[1:] - 2, targets, targets)


def measure(dataset: Dataset, model: ModelConfig, repeats: int) -> list[dict]:
    """Return a row for each way to rank the data set's test users."""
    clicks = batches.device_clicks(dataset)
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
    return measure(generated(items, users), model, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="beauty")
    parser.add_argument("--data_dir", default="")
    parser.add_argument(
        "--items", type=int, default=0, help="items of a catalogue to generate as well; 0: none"
    )
    parser.add_argument("--users", type=int, default=2048, help="users of that catalogue")
    parser.add_argument("--model", default="ttt4rec")
    parser.add_argument("--max_len", type=int, default=10)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    before = machine()
    rows = []
    model = ModelConfig(model=args.model, max_len=args.max_len, dim=args.dim)
    if args.items:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows += pool.apply(
                measure_generated, (args.items, args.users, model, min(args.repeats, 3))
            )
    if args.dataset:
        dataset = load_dataset(prepare(DataConfig(dataset=args.dataset), args.data_dir))
        rows = measure(dataset, model, args.repeats) + rows
    show(rows, before, args.json)


if __name__ == "__main__":
    main()
