"""Every causal model: no click changes an earlier output, and padding is inert."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig

LENGTH = 6
SHAPE = {"dim": 8, "num_heads": 2, "max_len": LENGTH, "num_blocks": 2}
TTT = {"model": "ttt4rec", "mini_batch_size": 4, "initializer_range": 0.3}
CASES = {
    "ttt4rec": TTT,
    "ttt4rec, no ffn": TTT | {"ffn": "none"},
    "ttt4rec, mamba": TTT | {"backbone": "mamba"},
    "ttt4rec, positions": TTT | {"positions": "learned"},
    "ttt4rec, filter": TTT | {"block": "filter"},
    "sasrec": {"model": "sasrec"},
    "sasrec, filter": {"model": "sasrec", "block": "filter"},
    "gru4rec": {"model": "gru4rec"},
}


@pytest.fixture(params=CASES, scope="module")
def encode(request):
    """Return a model's user vectors of two histories, compiled once for all tests."""
    model = models.build(ModelConfig(**SHAPE | CASES[request.param]), 30, 0)
    graphdef, params = nnx.split(model, nnx.Param)
    compiled = jax.jit(
        lambda params, history, length, every: nnx.merge(graphdef, params).encode(
            history, length, every
        ),
        static_argnames="every",
    )
    return functools.partial(compiled, params)


def test_a_click_changes_no_earlier_output(encode):
    history = jnp.array([[3, 7, 1, 9, 4, 2], [5, 5, 5, 5, 5, 5]])
    lengths = jnp.array([LENGTH, LENGTH])
    expected = encode(history, lengths, every=True)[0, :, 0]
    for changed in range(LENGTH):
        got = encode(history.at[0, changed].set(11), lengths, every=True)[0, :, 0]
        np.testing.assert_array_equal(got[:changed], expected[:changed])
        assert (np.abs(got[changed:] - expected[changed:]).max(-1) > 0).all()


@pytest.mark.parametrize("every", [False, True])
def test_padding_is_inert(encode, every):
    lengths = jnp.array([3, 1])
    history = jnp.array([[3, 7, 1, 0, 0, 0], [4, 0, 0, 0, 0, 0]])
    a = encode(history, lengths, every=every)
    b = encode(jnp.where(history > 0, history, 5), lengths, every=every)
    valid = (jnp.arange(LENGTH) < lengths[:, None])[..., None, None] if every else True
    np.testing.assert_array_equal(jnp.where(valid, a, 0), jnp.where(valid, b, 0))


def test_the_last_of_every_output_is_the_user_vector(encode):
    lengths = jnp.array([6, 2])
    history = jnp.array([[3, 7, 1, 9, 4, 2], [8, 8, 0, 0, 0, 0]])
    every = jnp.take_along_axis(
        encode(history, lengths, every=True)[:, :, 0], lengths[:, None, None] - 1, 1
    )[:, 0]
    got = encode(history, lengths, every=False)[:, 0]
    np.testing.assert_allclose(got, every, rtol=1e-4, atol=1e-5)
