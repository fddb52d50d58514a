"""Outputs and gradients against float64 numbers computed elsewhere (tests/golden/README.md)."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax.ttt.layer import TttConfig, TttLayer

FOLDER = Path(os.environ.get("TTT4REC_GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
FILES = sorted(FOLDER.glob("*.npz"))


def test_there_are_golden_files():
    assert FILES, f"no .npz in {FOLDER}; set TTT4REC_GOLDEN_DIR to a folder that has some"


def load_layer(file, impl):
    """Return the layer that a golden file describes, and {name: parameter}."""
    meta = {
        key.removeprefix("meta."): file[key].item() for key in file.files if key.startswith("meta.")
    }
    config = TttConfig(
        dim=meta["dim"],
        num_heads=meta["heads"],
        mini_batch_size=meta["mini_batch_size"],
        inner=meta["kind"],
        inner_learning_rate=meta["base_lr"],
        rope_theta=meta["rope_theta"],
        backbone=meta.get("backbone", "transformer"),
        impl=impl,
    )
    layer = TttLayer(config, nnx.Rngs(0))
    fast_names = (
        [("W0", "b0")] if meta["kind"] == "linear" else [("W0_1", "b0_1"), ("W0_2", "b0_2")]
    )
    slots = {name: getattr(layer, name) for name in plain_names(file)}
    for depth, (w, b) in enumerate(fast_names):
        slots[w], slots[b] = layer.fast_weights[depth]
    for name, slot in slots.items():
        value = jnp.asarray(file[f"param.{name}"])
        # biases are [H, 1, F] there, [H, F] here
        slot.set_value(value[:, 0] if name.startswith("b0") else value)
    return layer, slots


def plain_names(file):
    names = [key.removeprefix("param.") for key in file.files if key.startswith("param.")]
    return [name for name in names if not name.startswith(("W0", "b0"))]


@pytest.mark.parametrize("impl", ["scan", "dual", "chunked"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_output_and_gradients(path, impl):
    with jax.enable_x64(True), np.load(path) as file:
        if impl == "chunked" and file["meta.kind"].item() != "linear":
            pytest.skip("the chunked form is TTT-Linear's")
        layer, slots = load_layer(file, impl)
        x = jnp.asarray(file["x"])
        cotangent = jnp.asarray(file["cotangent"])
        lengths = jnp.full(x.shape[0], x.shape[1])

        def run(layer, x):
            y = layer(x, lengths)
            return (y * cotangent).sum(), y

        gradient = nnx.jit(nnx.value_and_grad(run, argnums=(0, 1), has_aux=True))
        (_, y), (grads, grad_x) = gradient(layer, x)
        np.testing.assert_allclose(y, file["y"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(grad_x, file["grad.x"], rtol=1e-5, atol=1e-7, err_msg="grad.x")
        nnx.update(layer, grads)  # the same slots now hold the gradients
        for name, slot in slots.items():
            expected = file[f"grad.{name}"]
            expected = expected[:, 0] if name.startswith("b0") else expected
            np.testing.assert_allclose(
                slot[...], expected, rtol=1e-5, atol=1e-7, err_msg=f"grad.{name}"
            )
