"""Measure time and memory of one TTT layer, forward and backward, and compare with attention.

    python experiments/benchmarks/layer.py --lengths=10,50,200 --json=layer.json

Rows: one pass over the input (memory traffic: read and written once), the projections and norm
alone (the cost of any mixer), causal softmax attention between the same projections, and TttLayer
in each implementation, of which scan is the definition. All but the first take [B, L, D] and return
the gradients of every parameter and of the input; programs of one length run in turns. Ratios are
of medians: a busy machine changes the milliseconds, but hardly the ratios.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from command_line import Figures, run, write_json
from flax import nnx
from timing import interleaved, machine

from data_prep.settings import option
from ttt4rec_jax.config.values import expand
from ttt4rec_jax.ttt.inner import Norm, layer_norm
from ttt4rec_jax.ttt.layer import TttConfig, TttLayer


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerFlags(Figures):
    """The flags of layer.py."""

    lengths: str = option("10,50,200", "Lengths, separated by commas.")
    mini_batch_sizes: str = option(
        "1,0", "Sizes of mini-batches, separated by commas; 0: the whole length."
    )
    impls: str = option("scan,dual,chunked", "Implementations, separated by commas.")
    chunks: str = option(
        "0",
        "Chunk lengths for impl=chunked, separated by commas; 0: the one that is chosen by shape. "
        "Give more than one to see whether the choice is right.",
    )
    mlp: bool = option(False, "Also TTT-MLP, with the whole length as one mini-batch.")
    batch_size: int = option(256, "Sequences.", low=1)
    dim: int = option(64, "Width of the layer.", low=1)
    num_heads: int = option(2, "Heads.", low=1)
    repeats: int = option(15, "Measurements of each row.", low=1)


class Projections(nnx.Module):
    """Projections to queries, keys and values, optionally attention, a norm and a projection."""

    def __init__(self, dim: int, num_heads: int, attend: bool, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.attend = attend

        def projection():
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (dim, dim)))

        self.theta_q = projection()
        self.theta_k = projection()
        self.theta_v = projection()
        self.theta_o = projection()
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(
        self, x_BxLxD: jax.Array, length_B: jax.Array, last_only: bool = False
    ) -> jax.Array:
        """Return the outputs [B, L, D]; last_only is not supported."""
        length = x_BxLxD.shape[1]
        valid_BxL = jnp.arange(length) < length_B[:, None]
        q, k, v = (x_BxLxD @ theta[...] for theta in (self.theta_q, self.theta_k, self.theta_v))
        if self.attend:
            q, k, v = (x.reshape(*x.shape[:2], self.num_heads, -1) for x in (q, k, v))
            scores = jnp.einsum("BiHF,BjHF->BHij", q, k) * q.shape[-1] ** -0.5
            allowed = jnp.tri(length, dtype=bool) & valid_BxL[:, None, None]
            weights = jax.nn.softmax(jnp.where(allowed, scores, jnp.finfo(scores.dtype).min))
            mixed = jnp.einsum("BHij,BjHF->BiHF", weights, v).reshape(x_BxLxD.shape)
        else:
            mixed = q + k + v
        return layer_norm(mixed, Norm(self.scale[...], self.bias[...])) @ self.theta_o[...]


Program = tuple[Callable[[], object], int | None]


def program(
    module: nnx.Module, x: jax.Array, length: jax.Array, last_only: bool = False
) -> Program:
    """Return (a layer's compiled forward and backward pass on arguments, its temporary bytes)."""
    graphdef, params = nnx.split(module, nnx.Param)

    def outputs(params, x, length):
        return nnx.merge(graphdef, params)(x, length, last_only)

    return gradient_program(outputs, params, x, length)


def gradient_program(
    outputs: Callable[..., jax.Array], params: Any, x: jax.Array, *more: jax.Array
) -> Program:
    """Return what `program` does, for any function outputs(params, x, *more)."""
    shape = jax.eval_shape(outputs, params, x, *more).shape
    cotangent = jax.random.normal(jax.random.key(1), shape)

    def loss(params, x, cotangent, *more):
        return (outputs(params, x, *more) * cotangent).sum()

    arguments = (params, x, cotangent, *more)
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    return (lambda: compiled(*arguments)), None if memory is None else memory.temp_size_in_bytes


def programs_of(length: int, sizes: list[int], flags: LayerFlags) -> dict[str, Program]:
    """Return every row of one length: name -> (program, temporary bytes)."""
    x = jax.random.normal(jax.random.key(0), (flags.batch_size, length, flags.dim))
    lengths = jnp.full(flags.batch_size, length)

    def ttt(size, impl, inner="linear", last_only=False, chunk=0):
        config = TttConfig(
            dim=flags.dim,
            num_heads=flags.num_heads,
            mini_batch_size=size,
            impl=impl,
            inner=inner,
            chunk=chunk,
        )
        return program(TttLayer(config, nnx.Rngs(0)), x, lengths, last_only)

    def projections(attend):
        module = Projections(flags.dim, flags.num_heads, attend, nnx.Rngs(0))
        return program(module, x, lengths)

    scaled = jax.jit(lambda x: 2 * x).lower(x).compile()
    rows: dict[str, Program] = {
        "one pass over the input": ((lambda: scaled(x)), 0),
        "projections and norm": projections(False),
        "attention": projections(True),
    }
    for size in sizes:
        rows |= {f"linear b={size} {impl}": ttt(size, impl) for impl in flags.impls.split(",")}
        rows |= {
            f"linear b={size} chunked {chunk}": ttt(size, "chunked", chunk=chunk)
            for chunk in expand("chunks", flags.chunks, int)
            if chunk > 0
        }
        rows[f"linear b={size} auto, last only"] = ttt(size, "auto", last_only=True)
    if flags.mlp:
        rows |= {f"mlp b={length} {impl}": ttt(length, impl, "mlp") for impl in ("scan", "dual")}
    return rows


def report(length: int, flags: LayerFlags) -> list[dict]:
    """Measure one length, print its table and return its rows."""
    wanted = expand("mini_batch_sizes", flags.mini_batch_sizes, int)
    sizes = sorted({length if size == 0 else min(size, length) for size in wanted})
    rows = programs_of(length, sizes, flags)
    medians = interleaved({name: run for name, (run, _) in rows.items()}, flags.repeats)
    print(f"\nlength {length}")
    print(f"{'':34} {'ms':>9} {'/attention':>11} {'definition/':>12} {'temp MB':>9}")
    results = []
    for name, (_, temp_bytes) in rows.items():
        definition = medians.get(" ".join([*name.split()[:2], "scan"])) if "b=" in name else None
        row = {
            "length": length,
            "name": name,
            "ms": medians[name],
            "times_attention": medians[name] / medians["attention"],
            "speedup_over_definition": definition and definition / medians[name],
            "temp_bytes": temp_bytes,
        }
        results.append(row)
        speedup = "" if definition is None else f"{row['speedup_over_definition']:.2f}"
        memory = "" if temp_bytes is None else f"{temp_bytes / 1e6:.1f}"
        print(
            f"{name:34} {row['ms']:9.2f} {row['times_attention']:11.2f} {speedup:>12} {memory:>9}"
        )
    return results


def main(flags: LayerFlags) -> None:
    lengths = expand("lengths", flags.lengths, int)
    before = machine()
    print(
        f"{before}; batch {flags.batch_size}, D={flags.dim}, H={flags.num_heads}, "
        f"forward and backward, medians of {flags.repeats}"
    )
    results = [row for length in lengths for row in report(length, flags)]
    print(f"\nload at the end: {machine()['load']}")
    write_json(
        flags.json,
        {"machine": before, "arguments": dataclasses.asdict(flags), "rows": results},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__, LayerFlags, main))
