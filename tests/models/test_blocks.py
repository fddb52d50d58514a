"""--block=filter is its equation, at every position and at the last one."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.blocks import make_block
from ttt4rec_jax.models.layers import Attention

D = 8


def rms(x):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)


def test_the_block_is_its_equation():
    """With unit scales: norm(y + FFN(y)), y = .7 norm(x + filter(x)) + .3 norm(x + mixer(x))."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, D)), jnp.float32)
    lengths = jnp.array([5, 3])
    outputs = {}
    for share in (0.7, 1.0, 0.0):
        config = ModelConfig(model="sasrec", dim=D, block="filter", filter_share=share)
        rngs = nnx.Rngs(0)
        attention = Attention(D, 2, rngs)
        block = make_block(config, attention, rngs)
        outputs[share] = block(x, lengths, last_only=False, key=None)
    filtered = np.stack([block.filter(row, 5, block.filter.initial_state())[0] for row in x])
    mixed = np.asarray(attention(x, lengths))
    for share, output in outputs.items():
        y = share * rms(x + filtered) + (1 - share) * rms(x + mixed)
        expected = rms(y + block.ffn(y))
        np.testing.assert_allclose(output[0], expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(output[1, :3], expected[1, :3], rtol=1e-4, atol=1e-5)
    last = block(x, lengths, last_only=True, key=None)  # the last of the shares
    np.testing.assert_allclose(last[:, 0], outputs[0.0][jnp.arange(2), lengths - 1], 1e-4, 1e-5)
