"""Dropout: the share dropped, the scale, and independence between elements and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt4rec_jax.models.layers import dropout, hashed_bits


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drops_the_given_share_and_keeps_the_mean(rate):
    got = np.asarray(dropout(jnp.ones((400, 250)), rate, jax.random.key(3)))
    assert set(np.unique(got)) == {np.float32(0), np.float32(1 / (1 - rate))}
    assert abs((got == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / got.size)


def test_nothing_is_dropped_in_evaluation():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_masks_are_as_independent_as_coin_flips():
    keys = jax.vmap(lambda step: jax.random.fold_in(jax.random.key(0), step))(jnp.arange(500))
    bits = np.asarray(jax.vmap(lambda key: hashed_bits(key, (500,)))(keys))
    for shift in (0, 13, 31):
        assert abs((bits >> shift & 1).mean() - 0.5) < 5 * 0.5 / 500
    flips = (bits < 2**31) - 0.5
    for rows in (flips, flips.T):  # between keys, and between elements
        correlation = np.corrcoef(rows)[np.triu_indices(500, 1)]
        assert abs(correlation.std() * np.sqrt(500) - 1) < 0.02 and abs(
            correlation
        ).max() < 6 / np.sqrt(500)
    lagged = np.corrcoef(flips[:-1].ravel(), flips[1:].ravel())[0, 1]
    assert abs(lagged) < 5 / 500
