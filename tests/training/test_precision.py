"""--precision=bfloat16: which products it rounds, on which devices, and what that does to a loss.

XLA ignores the algorithm on a CPU, so the operands are rounded here as an accelerator rounds them.
"""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config
from jax._src.lax import lax as lax_internal
from jax._src.lib.mlir.dialects import hlo

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, program
from ttt4rec_jax.config.run import check_resumable
from ttt4rec_jax.parallel.sharding import ONE_DEVICE
from ttt4rec_jax.pipeline import experiment, result
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import precision
from ttt4rec_jax.training.compile import make_evaluator
from ttt4rec_jax.training.program import Program, make_program
from ttt4rec_jax.training.step import draw_batch

STEPS = 40
# the largest relative difference of two loss curves: about three times what was found
CLOSE = {"ttt4rec, b=1": 0.015, "ttt4rec, b=4": 0.005, "sasrec": 0.006}
TTT = {"dim": 16, "max_len": 8, "ttt_impl": "chunked", "initializer_range": 0.1}
CASES = {
    "ttt4rec, b=1": TTT | {"mini_batch_size": 1},
    "ttt4rec, b=4": TTT | {"mini_batch_size": 4},
    "sasrec": {"model": "sasrec", "dim": 16, "max_len": 8},
}
ACCELERATORS = ("cuda", "tpu")
PRODUCT = re.compile(r"stablehlo\.dot_general .*")
BFLOAT16 = (
    "algorithm = <lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type = f32"
)


@pytest.fixture
def on_accelerator(monkeypatch):
    """Trace for an accelerator. What is compiled for the CPU rounds operands to this mantissa."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    plain = lax_internal._handle_dot_precision
    rounding = SimpleNamespace(mantissa_bits=7)  # that of bfloat16

    def rounded(ctx, lhs, rhs, asked, platform):
        if platform == "cpu" and asked is jax.lax.DotAlgorithmPreset.BF16_BF16_F32:
            bits = 8, rounding.mantissa_bits
            return plain(ctx, *(hlo.reduce_precision(x, *bits) for x in (lhs, rhs)), None, platform)
        return plain(ctx, lhs, rhs, asked, platform)

    monkeypatch.setattr(lax_internal, "_handle_dot_precision", rounded)
    return rounding


def configs_of(case: str) -> tuple[Config, Config]:
    exact, rounded = (
        small_config(CASES[case], precision=p, batch_size=32, learning_rate=0.003)
        for p in ("float32", "bfloat16")
    )
    return exact, rounded


def traced_steps(made: Program):
    """The first steps of an epoch, traced for a state, and that state."""
    training = made.training
    epoch = training.begin_epoch(0)

    def steps(state):
        def step(state, index):
            batch, key = draw_batch(
                made.clicks,
                training.examples,
                epoch.order_RxSxB[0],
                epoch.key_R[0],
                index % training.num_steps,
                training.buckets[0],
                made.config,
                made.dataset.num_items,
                ONE_DEVICE,
            )
            return training.train_step(state, batch, key)

        return jax.lax.scan(step, state, jnp.arange(STEPS))

    state = jax.tree.map(lambda x: x[0], training.first_state)
    return jax.jit(steps).trace(state), state


def evaluation_text(made: Program) -> str:
    evaluate = make_evaluator(made)
    params = jax.tree.map(lambda x: x[0], made.params_R)
    traced = jax.jit(evaluate.rank).trace(params, made.clicks, evaluate.targets["test"])
    return traced.lower(lowering_platforms=ACCELERATORS[:1]).as_text()


@pytest.mark.parametrize("case", CASES)
def test_a_step_multiplies_in_bfloat16_and_its_loss_stays_close(
    cyclic_dataset, case, on_accelerator
):
    programs = [make_program([config], cyclic_dataset) for config in configs_of(case)]
    (exact, state), (rounded, _) = map(traced_steps, programs)
    for platform in ACCELERATORS:
        text = rounded.lower(lowering_platforms=(platform,)).as_text()
        products = PRODUCT.findall(text)
        assert products and all(BFLOAT16 in product for product in products), "backward pass too"
        assert "xbf16>" not in text, "states, parameters and sums are float32"
        plain = exact.lower(lowering_platforms=(platform,)).as_text()
        assert len(PRODUCT.findall(plain)) == len(products) and "bf16" not in plain
    of_exact, of_rounded = map(evaluation_text, programs)
    assert of_exact == of_rounded and "bf16" not in of_rounded
    _, reference = exact.lower().compile()(state)
    assert reference[-5:].mean() < 0.9 * reference[:5].mean(), "the model learns"

    def difference(mantissa_bits: int) -> float:
        on_accelerator.mantissa_bits = mantissa_bits
        traced, _ = traced_steps(programs[1])
        _, losses = traced.lower().compile()(state)
        return float(np.abs(losses / reference - 1).max())

    found = {bits: difference(bits) for bits in (7, 2)}
    assert 1e-4 < found[7] < CLOSE[case] < found[2], "a coarser rounding would be noticed"


def test_a_cpu_trains_in_float32_and_says_so(cyclic_dataset, tmp_path, caplog):
    exact, asked = configs_of("sasrec")
    of_exact, of_asked = (
        traced_steps(make_program([config], cyclic_dataset))[0].lower().as_text()
        for config in (exact, asked)
    )
    assert of_exact == of_asked
    folder = RunFolder(tmp_path)
    folder.create(asked)
    outcomes = experiment.fit(
        {"": asked}, cyclic_dataset, folder, {"": folder}, None, lambda line: None, bar=None
    )
    (line,) = caplog.messages
    assert line.startswith("--precision=bfloat16: ") and "float32" in line and "\n" not in line
    seconds = {"prepare": 0.0, "total": 0.0}
    content = result.result(asked, cyclic_dataset.manifest, outcomes[""], seconds, "cpu")
    assert content["precision"] == "float32"
    assert content["config"]["train"]["precision"] == "bfloat16"
    content = result.result(exact, cyclic_dataset.manifest, outcomes[""], seconds, "cpu")
    assert "precision" not in content


@pytest.mark.parametrize(
    "capability, used",
    [("7.5", "float32"), ("8.0", "bfloat16"), ("12.0", "bfloat16"), ("gfx90a", "bfloat16")],
)
def test_a_gpu_without_bfloat16_trains_in_float32_and_says_so(capability, used, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    exact, asked = configs_of("sasrec")
    assert precision.used(asked.train) == used
    assert (capability in precision.notice(asked.train)) == (used == "float32")
    assert precision.used(exact.train) == "float32" and not precision.notice(exact.train)


def test_runs_of_two_precisions_share_no_program_and_no_folder():
    exact, asked = configs_of("sasrec")
    assert program(exact) != program(asked)
    with pytest.raises(UserError, match="--precision=float32, found --precision=bfloat16"):
        check_resumable(exact, asked)
