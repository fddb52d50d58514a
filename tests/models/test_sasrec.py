"""Attention against a loop over positions and heads."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.models.layers import Attention


def test_attention_equals_a_loop_over_positions_and_heads():
    layer = Attention(8, 2, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 5, 8))
    q, k, v = np.split(np.asarray(x[0]) @ np.asarray(layer.w_qkv[...]), 3, -1)
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
