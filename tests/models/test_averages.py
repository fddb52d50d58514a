"""The moving averages of a block: their definition, their decays' share of channels, the gate."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.models.averages import DECAYS, WithAverages, means_at, no_means

D = 10  # not a multiple of the number of decays: 3, 3, 2 and 2 channels
CHANNELS = np.repeat(DECAYS, [3, 3, 2, 2])


class Zero(nnx.Module):
    """A mixer that returns zeros, and has no state."""

    def __call__(self, x, length, last_only):
        return jnp.zeros_like(x[:, :1] if last_only else x)

    def initial_state(self):
        return ()

    def sequence(self, x, length, state, last_only):
        return jnp.zeros_like(x[:1] if last_only else x), state

    def step(self, x, state):
        return jnp.zeros_like(x), state


def test_a_mean_weighs_an_input_by_its_decay_to_the_power_of_its_age():
    x = np.random.default_rng(0).normal(size=(7, D)).astype(np.float32)
    expected = []
    total = np.zeros(D)
    weight = np.zeros(D)
    for row in x:  # the definition, one input after the other
        total = CHANNELS * total + row
        weight = CHANNELS * weight + 1
        expected.append(total / weight)
    got, _ = means_at(jnp.asarray(x), jnp.arange(7), no_means(D))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[:, -1], np.cumsum(x[:, -1]) / np.arange(1, 8), rtol=1e-5)


def test_each_channel_has_a_gate():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, D)), jnp.float32)
    layer = WithAverages(Zero(), D)
    lengths = jnp.array([5, 3])
    plain = layer(x, lengths)
    layer.gate[...] = jnp.arange(D, dtype=jnp.float32)
    np.testing.assert_allclose(layer(x, lengths), plain * np.arange(D), rtol=1e-6)
    last = layer(x, lengths, last_only=True)
    np.testing.assert_allclose(last[:, 0], plain[jnp.arange(2), lengths - 1] * np.arange(D), 1e-5)


def test_a_state_goes_on_after_padding_and_single_tokens_with_the_same_gates():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(6, D)), jnp.float32)
    layer = WithAverages(Zero(), D)
    layer.gate[...] = jnp.arange(D, dtype=jnp.float32)
    expected = layer(x[None], jnp.array([6]))[0]
    padded = jnp.concatenate([x[:3], jnp.full((2, D), 7.0)])  # padding that counts would show
    first, state = layer.sequence(padded, 3, layer.initial_state())
    np.testing.assert_allclose(first[:3], expected[:3], rtol=1e-5, atol=1e-6)
    one, state = layer.step(x[3], state)
    np.testing.assert_allclose(one, expected[3], rtol=1e-5, atol=1e-6)
    last, _ = layer.sequence(x[4:], 2, state, last_only=True)
    np.testing.assert_allclose(last[0], expected[5], rtol=1e-5, atol=1e-6)
