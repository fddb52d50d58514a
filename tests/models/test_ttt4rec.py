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
@pytest.mark.parametrize("ffn", [False, True])
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
    block = D + ttt + (D + 2 * D * 4 * D + 4 * D + D if ffn else 0)
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
