"""Training step time as the catalogue grows, with dense Adam and with --sparse_embeddings.

    python experiments/benchmarks/catalogue.py --items 10000 100000 1000000 --json catalogue.json

The paper's step on clicks generated in memory, drawn uniformly, which is the worst case for rows that repeat. Each
program trains some steps in one dispatch, buffers donated, as a run does; programs take turns. One program's memory is
its arguments (parameters and two moments) and its temporaries; a copy of a table a step would show in the latter.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, machine

from ttt4rec_jax import data, models
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.optim import optimizer
from ttt4rec_jax.train_step import TrainState, make_run_steps, make_train_step, new_sums


def generated(num_items: int, num_users: int = 20_000, clicks: int = 12) -> data.Dataset:
    """Users of as many clicks each on items drawn uniformly; no evaluation sets."""
    items = np.random.default_rng(0).integers(1, num_items + 1, num_users * clicks).astype(np.int32)
    offsets = np.arange(num_users + 1, dtype=np.int64) * clicks
    nothing = data.Targets(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 1), np.int32))
    return data.Dataset({"counts": {"items": num_items}}, items, offsets, offsets[1:] - 2, nothing, nothing)


def program(dataset: data.Dataset, config: Config, steps: int):
    """A function that trains `steps` more steps, and the bytes of arguments and temporaries."""
    clicks, key = data.device_clicks(dataset), jax.random.key(0)
    examples, buckets = data.training_examples(dataset, config)
    graphdef, params = models.split(config.model, dataset, 0)
    tx = optimizer(config.train)
    state = TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))
    train_step = make_train_step(graphdef, tx, config, dataset.num_items)
    run_steps = make_run_steps(train_step, config, dataset.num_items, buckets)
    order = data.epoch_order(key, 0, buckets, config.train.batch_size)
    rest = clicks, examples, order, key, 0, steps
    compiled = jax.jit(run_steps, donate_argnums=0).lower(state, new_sums(), *rest).compile()
    memory = compiled.memory_analysis()

    def run():
        nonlocal state
        state, sums = compiled(state, new_sums(), *rest)
        return sums.loss

    bytes_of = (None, None) if memory is None else (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
    return run, bytes_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--max_len", type=int, default=10)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--targets", default="last", choices=("last", "every"))
    parser.add_argument("--steps", type=int, default=10, help="steps of one measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the machine and all rows there")
    args = parser.parse_args()
    before = machine()
    print(f"{before}; batch {args.batch_size}, length {args.max_len}, D={args.dim}, medians of {args.repeats}")
    programs, memory = {}, {}
    for num_items in args.items:
        dataset = generated(num_items)
        for kind in ("dense", "sparse"):
            config = Config(
                model=ModelConfig(dim=args.dim, max_len=args.max_len),
                train=TrainConfig(batch_size=args.batch_size, targets=args.targets, sparse_embeddings=kind == "sparse"),
            )
            programs[num_items, kind], memory[num_items, kind] = program(dataset, config, args.steps)
    medians = interleaved(programs, args.repeats)
    rows = []
    print(f"{'items':>9} {'':7} {'ms/step':>9} {'/smallest':>10} {'arguments MB':>13} {'temporary MB':>13}")
    for (num_items, kind), total in medians.items():
        smallest = medians[args.items[0], kind]
        arguments, temporary = memory[num_items, kind]
        rows.append(
            {
                "items": num_items,
                "kind": kind,
                "ms_per_step": total / args.steps,
                "times_smallest": total / smallest,
                "argument_bytes": arguments,
                "temporary_bytes": temporary,
            }
        )
        in_mb = ["" if b is None else f"{b / 1e6:.1f}" for b in (arguments, temporary)]
        print(f"{num_items:9,} {kind:7} {total / args.steps:9.2f} {total / smallest:10.2f} {in_mb[0]:>13} {in_mb[1]:>13}")
    print(f"load at the end: {machine()['load']}")
    if args.json:
        arguments = vars(args) | {"json": str(args.json)}
        args.json.write_text(json.dumps({"machine": before, "arguments": arguments, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
