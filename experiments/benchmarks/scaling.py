r"""Report the memory and the collectives of a training step on a mesh of devices, without running.

    JAX_NUM_CPU_DEVICES=8 python experiments/benchmarks/scaling.py \
        --items=10000000 --mesh=data:4,model:2

The numbers come from the compiled program. The devices may be virtual: XLA partitions for them as
it does for real ones, so that no cluster is needed. See docs/scaling.md.
"""

import dataclasses
import re
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from command_line import Figures, run, write_json
from flax import nnx

from data_prep.settings import UserError, option
from ttt4rec_jax import models
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.config.execution import mesh_sizes
from ttt4rec_jax.data.clicks import Clicks
from ttt4rec_jax.data.examples import Bucket, Examples
from ttt4rec_jax.parallel.sharding import RUNS, SHARED, DeviceMesh
from ttt4rec_jax.training.optim import optimizer
from ttt4rec_jax.training.step import TrainState, make_run_steps, make_train_step, new_sums, stacked

COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
)
# [4,2]<=[8] or {{0,1},{2,3}}
LISTED_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\})")
# ['axis_0'=4,'axis_1'=2] {'axis_0'}
MESH_GROUPS = re.compile(r"replica_groups=mesh\[(.*?)\].*?\{('.*?)\}")
SHAPE = re.compile(r"(pred|[sufb]+\d+)\[([\d,]*)\]")
BYTES = {
    "pred": 1,
    "u8": 1,
    "s8": 1,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "f64": 8,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingFlags(Figures):
    """The flags of scaling.py; most are main.py's."""

    items: int = option(10_000_000, "Items of the catalogue.", low=1)
    mesh: str = option("data:4,model:2", "The mesh; there must be as many devices.")
    model: str = option("ttt4rec", "The model.")
    loss: str = option("sampled_softmax", "The loss.")
    num_negatives: int = option(1024, "Negatives of a step.", low=1)
    targets: str = option("every", "Which clicks are targets.")
    max_len: int = option(50, "Length of the histories.", low=1)
    batch_size: int = option(256, "Histories of a step.", low=1)
    dim: int = option(64, "Width of the model.", low=1)
    sparse_embeddings: bool = option(False, "Update only the rows of the table that are used.")


def compiled_step(
    config: Config, num_items: int, mesh: DeviceMesh, clicks: int = 1_000_000
) -> jax.stages.Compiled:
    """Compile the program of training steps for a catalogue of this size, from shapes only."""
    graphdef, params = nnx.split(
        nnx.eval_shape(lambda: models.build(config.model, num_items, 0)), nnx.Param
    )
    tx = optimizer(config.train)

    def start(params):
        return TrainState(params, tx.init(params), jnp.zeros(())), new_sums(config)

    state, sums = jax.eval_shape(start, nnx.to_pure_dict(params))
    one_run = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (state, sums))
    rows = config.train.batch_size
    length = config.model.max_len
    users = clicks // 10
    bucket = Bucket(length, 0, users, rows)

    def ints(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    steps = -(-users // rows)
    arrays = (
        Clicks(
            ints(clicks), ints(users), ints(clicks, dtype=jnp.bool_), ints(clicks), ints(users + 1)
        ),
        Examples(ints(users), ints(users), ints(users)),
        ints(steps),
        ints(1, steps, rows),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
        ints(),
        ints(),
    )
    step = make_train_step(graphdef, tx, config, num_items)
    function = stacked(make_run_steps(step, config, num_items, (bucket,), mesh), 1, True)
    arguments = *mesh.shapes(one_run, RUNS), *mesh.shapes(arrays, SHARED)
    program = jax.jit(mesh.map(function, (), RUNS), donate_argnums=0)
    return program.lower(*arguments).compile()


def members(line: str) -> int:
    """Return the size of the device groups of the collective in a line of HLO."""
    if match := MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return int(np.prod([int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2])]))
    match = LISTED_GROUPS.search(line)
    if match is None:
        raise ValueError(f"no groups of devices in {line!r}")
    size, listed = match.groups()
    return int(size) if size else listed.count(",") + 1


def collectives(hlo: str) -> Counter[tuple[str, int, str, int]]:
    """Count a program's collectives by (kind, group size, shapes, bytes per device)."""
    counts: Counter[tuple[str, int, str, int]] = Counter()
    for line in hlo.splitlines():
        if match := COLLECTIVE.search(line):
            shapes = SHAPE.findall(match[1])
            size = sum(
                BYTES[kind] * int(np.prod([int(n) for n in axes.split(",") if n]))
                for kind, axes in shapes
            )
            text = " ".join(f"{kind}[{axes}]" for kind, axes in shapes)
            counts[match[2], members(line), text, size] += 1
    return counts


def main(flags: ScalingFlags) -> None:
    config = Config(
        model=ModelConfig(
            model=flags.model, dim=flags.dim, max_len=flags.max_len, target_tower="none"
        ),
        train=TrainConfig(
            targets=flags.targets,
            loss=flags.loss,
            num_negatives=flags.num_negatives,
            batch_size=flags.batch_size,
            sparse_embeddings=flags.sparse_embeddings,
        ),
    )
    mesh = DeviceMesh(*mesh_sizes(flags.mesh))
    program = compiled_step(config, flags.items, mesh)
    memory = program.memory_analysis()
    hlo = program.as_text()
    if memory is None or hlo is None:
        raise UserError("this platform's compiler reports neither memory nor the program's text")
    table = flags.items * flags.dim * 4
    print(
        f"{flags.model}, {flags.items:,} items x {flags.dim}, {flags.mesh}, "
        f"{flags.batch_size} x {flags.max_len} clicks, {flags.loss}"
    )
    print(
        f"item table {table / 1e6:,.0f} MB in total, {table / mesh.model / 1e6:,.0f} MB per "
        "device, and twice that for Adam"
    )
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "results not in place": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    for name, size in sizes.items():
        print(f"{name:22}{size / 1e6:12,.1f} MB per device")
    counts = collectives(hlo)
    print("collectives of a step (in the loop's body, once each):" if counts else "no collectives")
    for (kind, size, shapes, volume), count in sorted(counts.items(), key=lambda x: -x[0][3]):
        print(f"  {count} x {kind} over {size:<4}{volume / 1e6:12,.3f} MB  {shapes[:100]}")
    rows = [
        {"kind": k, "devices": d, "shapes": s, "bytes": b, "count": n}
        for (k, d, s, b), n in counts.items()
    ]
    write_json(
        flags.json,
        {"arguments": dataclasses.asdict(flags), "bytes": sizes, "collectives": rows},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__, ScalingFlags, main))
