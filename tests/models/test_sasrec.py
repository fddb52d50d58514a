"""SASRec: parameters in closed form, attention against a loop over positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.layers import Attention

LENGTH = 6


def build(dataset, **settings):
    sizes = {"model": "sasrec", "dim": 8, "num_heads": 2, "max_len": LENGTH, "num_blocks": 2}
    return models.build(ModelConfig(**sizes | settings), dataset, 0)


@pytest.mark.parametrize("target_tower", ["mlp", "none"])
def test_parameter_count(random_dataset, target_tower):
    D = 8
    V = random_dataset.num_items
    block = D + 4 * D * D + D + (D * 4 * D + 4 * D + 4 * D * D + D)
    tower = 2 * (D * D + D) if target_tower == "mlp" else 0
    count = sum(
        p.size
        for p in jax.tree.leaves(
            nnx.state(build(random_dataset, target_tower=target_tower), nnx.Param)
        )
    )
    assert count == (V + 1) * D + LENGTH * D + 2 * block + D + tower


def test_attention_equals_a_loop_over_positions_and_heads():
    layer = Attention(8, 2, nnx.Rngs(0))
    x = np.asarray(jax.random.normal(jax.random.key(1), (1, 5, 8)))
    q, k, v = np.split(x[0] @ np.asarray(layer.w_qkv[...]), 3, -1)
    expected = np.zeros((5, 8))
    for t in range(5):
        for head in (slice(0, 4), slice(4, 8)):
            weight = np.exp(k[: t + 1, head] @ q[t, head] / 2)
            expected[t, head] = weight @ v[: t + 1, head] / weight.sum()
    expected = expected @ np.asarray(layer.w_out[...])
    np.testing.assert_allclose(layer(x, jnp.array([5]))[0], expected, rtol=1e-4, atol=1e-5)
    for length in (1, 3, 5):
        got = layer(x, jnp.array([length]), last_only=True)[0, 0]
        np.testing.assert_allclose(got, expected[length - 1], rtol=1e-4, atol=1e-5)
