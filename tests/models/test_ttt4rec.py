"""TTT4Rec: parameters in closed form, and the ranges of initial parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig

LENGTH = 6
V = 30


def build(**settings):
    sizes = {
        "dim": 8,
        "num_heads": 2,
        "mini_batch_size": 4,
        "max_len": LENGTH,
        "num_blocks": 2,
        "initializer_range": 0.3,
    }
    return models.build(ModelConfig(**sizes | settings), V, 0)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("ffn", ["none", "gelu", "swiglu"])
@pytest.mark.parametrize("target_tower", ["mlp", "none"])
@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
def test_parameter_count(inner, ffn, target_tower, backbone):
    settings = {"inner": inner, "ffn": ffn, "target_tower": target_tower, "backbone": backbone}
    model = nnx.eval_shape(lambda: build(**settings))
    D = 8
    H = 2
    F = 4
    b = 4
    fast = F * F + F if inner == "linear" else 2 * F * 4 * F + 4 * F + F
    # mamba's gate and shared projection are D x D as the queries' and keys' projections are
    convolutions = 2 * (4 * D + D) if backbone == "mamba" else 0
    ttt = 4 * D * D + convolutions + H * (fast + 2 * F + D + 1) + b + 2 * D
    swiglu = 3 * D * 32  # 8/3 D, rounded up to a multiple of 16
    network = {"none": 0, "gelu": D + 2 * D * 4 * D + 4 * D + D, "swiglu": D + swiglu}[ffn]
    block = D + ttt + network
    tower = 2 * (D * D + D) if target_tower == "mlp" else 0
    assert (
        sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == (V + 1) * D + 2 * block + D + tower
    )


def test_initializer_range_and_fast_weight_range():
    def spread(**settings):
        model = build(dim=64, **settings)
        ttt = model.blocks[0].mixer
        return [
            float(jnp.std(p[...]))
            for p in (ttt.theta_q, ttt.lr_gate_kernel, ttt.fast_weights[0][0])
        ]

    np.testing.assert_allclose(spread(initializer_range=0.1), [0.1, 0.1, 0.1], rtol=0.2)
    np.testing.assert_allclose(
        spread(initializer_range=0.1, fast_weight_range=0.5), [0.1, 0.1, 0.5], rtol=0.2
    )


REACHED = {  # which of q, gate, W_0, SwiGLU, embedding and position initializer_range sets
    "layer": [0.1, 0.1, 0.1, 0.02, 0.02, 0.02],
    "jax": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
    "pytorch": [0.1, 0.02, 0.02, 0.1, 0.1, 0.1],
}


def spreads(model) -> list[float]:
    block = model.blocks[0]
    ttt = block.mixer
    parameters = (ttt.theta_q, ttt.lr_gate_kernel, ttt.fast_weights[0][0], block.ffn.w1)
    return [float(jnp.std(p[...])) for p in (*parameters, model.embedding, model.positions)]


@pytest.mark.parametrize("reach", REACHED)
def test_what_initializer_range_reaches(reach):
    sizes = {"dim": 64, "num_blocks": 1, "initializer_range": 0.1, "positions": "learned"}
    model = build(ffn="swiglu", initializer_reach=reach, **sizes)
    np.testing.assert_allclose(spreads(model), REACHED[reach], rtol=0.2)
    gelu = build(ffn="gelu", initializer_reach=reach, **sizes).blocks[0].ffn
    expected = 1 / 8 if reach == "layer" else 0.1
    np.testing.assert_allclose(float(jnp.std(gelu.w1[...])), expected, rtol=0.1)
    if reach == "pytorch":
        fast = build(ffn="swiglu", initializer_reach=reach, fast_weight_range=0.5, **sizes)
        np.testing.assert_allclose(spreads(fast)[2], 0.5, rtol=0.2)


@pytest.mark.parametrize("reach", ["jax", "pytorch"])
def test_stacked_ranges_draw_what_each_draws_alone(reach):
    configs = [
        ModelConfig(dim=8, ffn="swiglu", initializer_reach=reach, initializer_range=x)
        for x in (0.001, 0.5)
    ]
    ranges = [np.array([getattr(c, name) for c in configs], np.float32) for name in RANGES]
    _, stacked = models.split(configs[0], V, np.zeros(2, np.uint32), *ranges)
    for r, config in enumerate(configs):
        alone = nnx.to_pure_dict(nnx.state(models.build(config, V, 0), nnx.Param))
        jax.tree.map(
            lambda x, y, r=r: np.testing.assert_allclose(x[r], y, rtol=1e-5), stacked, alone
        )


RANGES = ("initializer_range", "w0_range")
