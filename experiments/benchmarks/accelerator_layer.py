"""The sections of accelerator.py that measure one layer, forward and backward."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import public_layer
from accelerator_settings import Emit, Settings, Sizes, megabytes, reason
from flax import nnx
from layer import Program, Projections, program
from timing import interleaved

from ttt4rec_jax.ttt.layer import TttConfig, TttLayer

HEADS = 2
IMPLEMENTATIONS = ("chunked", "dual", "scan")


def of_cells(settings: Settings, emit: Emit, inner: str) -> None:
    """Measure the layer with an inner learner beside attention and the public layer."""
    public: Any = None
    if settings.public:
        try:
            public = public_layer.load(settings.public)
        except Exception as error:
            emit({"error": f"--public: {reason(error)}"})
    for length, size in settings.sizes.cells:
        emit(of_cell(settings.sizes, length, size, inner, public))


def of_cell(sizes: Sizes, length: int, size: int, inner: str, public: Any) -> dict:
    """Return the row of one length and mini-batch size; the layers take turns."""
    x = jax.random.normal(jax.random.key(0), (sizes.batch_size, length, sizes.dim))
    makers: dict[str, Callable[[], Program]] = {
        "ours": lambda: ours(x, size, inner),
        "attention": lambda: beside(x, Projections(sizes.dim, HEADS, True, nnx.Rngs(0))),
        "projections": lambda: beside(x, Projections(sizes.dim, HEADS, False, nnx.Rngs(0))),
    }
    if public is not None:
        makers["public"] = lambda: public_layer.program(public, x, HEADS, size, inner)
    programs, errors = those_that_run(makers)
    ms = interleaved({name: run for name, (run, _) in programs.items()}, sizes.repeats)
    row: dict[str, Any] = {"N": length, "b": size}
    row |= {f"{name}_ms": ms.get(name) for name in makers}
    if public is not None:
        row["public_over_ours"] = ratio(ms, "public", "ours")
    row["ours_over_attention"] = ratio(ms, "ours", "attention")
    for name in ("ours", "public"):
        if name in makers:
            row[f"{name}_temp_mb"] = megabytes(programs[name][1]) if name in programs else None
    return row | ({"error": errors} if errors else {})


def of_implementations(settings: Settings, emit: Emit) -> None:
    """Measure the layer's implementations, whose automatic choice follows timings on a CPU."""
    sizes = settings.sizes
    for length, size in sizes.cells:
        x = jax.random.normal(jax.random.key(0), (sizes.batch_size, length, sizes.dim))
        makers = {
            name: functools.partial(ours, x, size, "linear", name) for name in IMPLEMENTATIONS
        }
        programs, errors = those_that_run(makers)
        ms = interleaved({name: run for name, (run, _) in programs.items()}, sizes.repeats)
        row: dict[str, Any] = {"N": length, "b": size}
        row |= {f"{name}_ms": ms.get(name) for name in IMPLEMENTATIONS}
        row["fastest"] = min(ms, key=ms.__getitem__) if ms else None
        emit(row | ({"error": errors} if errors else {}))


def ours(x: jax.Array, size: int, inner: str, impl: str = "auto") -> Program:
    """Return our layer's program on sequences x."""
    config = TttConfig(
        dim=x.shape[2], num_heads=HEADS, mini_batch_size=size, inner=inner, impl=impl
    )
    return beside(x, TttLayer(config, nnx.Rngs(0)))


def beside(x: jax.Array, module: nnx.Module) -> Program:
    """Return a module's program on sequences x of full length."""
    return program(module, x, jnp.full(x.shape[0], x.shape[1]))


def those_that_run(
    makers: dict[str, Callable[[], Program]],
) -> tuple[dict[str, Program], str]:
    """Return the programs that compile and run once, and the errors of the others in one line."""
    programs = {}
    errors = []
    for name, make in makers.items():
        try:
            made = make()
            jax.block_until_ready(made[0]())
            programs[name] = made
        except Exception as error:
            errors.append(f"{name}: {reason(error)}")
    return programs, "; ".join(errors)


def ratio(ms: dict[str, float], above: str, below: str) -> float | None:
    """Return a ratio of two medians; None if one is missing."""
    return ms[above] / ms[below] if above in ms and below in ms else None
