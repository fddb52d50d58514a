"""The filter of --block=filter: its means, the channels of each decay, the gains, its state."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.models.averages import DECAYS, MovingAverages, means_at, no_means

D = 10  # not a multiple of the number of decays: 3, 3, 2 and 2 channels
CHANNELS = np.repeat(DECAYS, [3, 3, 2, 2])


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


def test_a_gain_of_0_gives_the_mean_and_one_of_1_the_input():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, D)), jnp.float32)
    layer = MovingAverages(D, nnx.Rngs(0))
    assert 0.2 < np.std(layer.gain[...]) < 2
    mean, _ = means_at(x, jnp.arange(5), no_means(D))
    for gain, expected in [(0.0, mean), (1.0, x), (-2.0, mean + 4 * (x - mean))]:
        layer.gain[...] = jnp.full(D, gain)
        got, _ = layer(x, 5, layer.initial_state())
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_state_goes_on_after_padding_and_single_inputs():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(6, D)), jnp.float32)
    layer = MovingAverages(D, nnx.Rngs(0))
    expected, _ = layer(x, 6, layer.initial_state())
    padded = jnp.concatenate([x[:3], jnp.full((2, D), 7.0)])  # padding that counts would show
    first, state = layer(padded, 3, layer.initial_state())
    np.testing.assert_allclose(first[:3], expected[:3], rtol=1e-5, atol=1e-6)
    one, state = layer(x[3:4], 1, state)
    np.testing.assert_allclose(one[0], expected[3], rtol=1e-5, atol=1e-6)
    last, _ = layer(x[4:], 2, state, last_only=True)
    np.testing.assert_allclose(last[0], expected[5], rtol=1e-5, atol=1e-6)
