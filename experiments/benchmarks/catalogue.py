"""Measure a training step as the catalogue grows, with dense Adam and --sparse_embeddings.

    python experiments/benchmarks/catalogue.py --items 10000 100000 1000000 \
        [--targets=every --max_len=50] [--json=FILE]

Clicks are generated in memory and drawn uniformly, so that hardly any item occurs twice in a batch,
which is the worst case. A measurement is a dispatch of several steps with donated buffers, as in a
run. Temporary memory does not include the parameters and their two moments, so that a copy of the
item table would be visible there.
"""

import argparse
from collections.abc import Callable

import numpy as np
from timing import interleaved, machine, show

from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.training.compile import Executables, compile_runs
from ttt4rec_jax.training.step import EpochSums


def generated(num_items: int, num_users: int = 20_000) -> Dataset:
    """Return users of 3 to 60 clicks on items drawn uniformly, and a token evaluation set."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(3, 61, num_users))])
    items = rng.integers(1, num_items + 1, offsets[-1]).astype(np.int32)
    targets = Targets(
        *(np.asarray(x, np.int32) for x in (offsets[1:9] - 1, range(8), np.ones((8, 1))))
    )
    return Dataset(
        {"counts": {"items": num_items}}, items, offsets, offsets[1:] - 2, targets, targets
    )


def more_steps(executables: Executables, steps: int) -> Callable[[], EpochSums]:
    """Return a function that trains `steps` more steps at each call."""
    program = executables.program
    training = program.training
    data = (program.clicks, training.examples, *executables.begin_epoch(0))
    state = training.first_state

    def run() -> EpochSums:
        nonlocal state
        state, sums = executables.run_steps(state, training.first_sums, *data, 0, steps)
        return sums

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--targets", default="last", choices=("last", "every"))
    parser.add_argument("--max_len", type=int, default=10)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="steps of one measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    before = machine()
    programs = {}
    temporary = {}
    model = ModelConfig(dim=args.dim, max_len=args.max_len)
    for num_items in args.items:
        dataset = generated(num_items)
        for adam in ("dense", "sparse"):
            train = TrainConfig(
                batch_size=args.batch_size, targets=args.targets, sparse_embeddings=adam == "sparse"
            )
            executables = compile_runs([Config(model=model, train=train)], dataset)
            memory = executables.run_steps.memory_analysis()
            temporary[num_items, adam] = None if memory is None else memory.temp_size_in_bytes / 1e6
            programs[num_items, adam] = more_steps(executables, args.steps)
    medians = interleaved(programs, args.repeats)
    rows = [
        {
            "items": num_items,
            "adam": adam,
            "ms_per_step": ms / args.steps,
            "over_fewest_items": ms / medians[args.items[0], adam],
            "over_dense": ms / medians[num_items, "dense"],
            "temporary_mb": temporary[num_items, adam],
        }
        for (num_items, adam), ms in medians.items()
    ]
    show(rows, before, args.json)


if __name__ == "__main__":
    main()
