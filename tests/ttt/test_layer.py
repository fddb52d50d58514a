"""The Flax layer: padding, the last position alone, and one token at a time, all against the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax.ttt.layer import Ranges, TttConfig, TttLayer, rotate

IMPLS = ["scan", "dual", "chunked"]


def make_layer(mini_batch_size, impl="dual", inner="linear"):
    config = TttConfig(dim=8, num_heads=2, mini_batch_size=mini_batch_size, impl=impl, inner=inner)
    return TttLayer(config, nnx.Rngs(0), Ranges(0.5, 0.3))


def inputs(batch, length):
    return jax.random.normal(jax.random.key(3), (batch, length, 8))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mini_batch_size", [1, 4, 10])
def test_what_stands_in_padding_changes_no_bit(impl, mini_batch_size):
    layer, x, lengths = make_layer(mini_batch_size, impl), inputs(3, 7), jnp.array([7, 3, 1])
    run = nnx.jit(lambda layer, x: layer(x, lengths))
    valid = (jnp.arange(7) < lengths[:, None])[..., None]
    expected = jnp.where(valid, run(layer, x), 0)
    for filler in (0.0, 1e30, jnp.nan):
        np.testing.assert_array_equal(jnp.where(valid, run(layer, jnp.where(valid, x, filler)), 0), expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mini_batch_size", [1, 4, 10])
def test_another_padded_length_changes_only_rounding(impl, mini_batch_size):
    layer, x = make_layer(mini_batch_size, impl), inputs(2, 5)
    lengths = jnp.array([5, 2])
    longer = jnp.pad(x, [(0, 0), (0, 6), (0, 0)])
    valid = (jnp.arange(5) < lengths[:, None])[..., None]
    np.testing.assert_allclose(valid * layer(longer, lengths)[:, :5], valid * layer(x, lengths), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("impl, inner", [("scan", "mlp"), ("dual", "linear"), ("dual", "mlp")])
@pytest.mark.parametrize("mini_batch_size", [1, 4])
def test_last_only_is_the_last_row_in_values_and_gradients(impl, inner, mini_batch_size):
    layer, x, lengths = make_layer(mini_batch_size, impl, inner), inputs(4, 9), jnp.array([9, 5, 4, 1])
    graphdef, params = nnx.split(layer, nnx.Param)

    @jax.jit
    def whole(params, x):
        return jnp.take_along_axis(nnx.merge(graphdef, params)(x, lengths), lengths[:, None, None] - 1, 1)

    @jax.jit
    def last(params, x):
        return nnx.merge(graphdef, params)(x, lengths, last_only=True)

    np.testing.assert_allclose(last(params, x), whole(params, x), rtol=1e-4, atol=1e-6)
    expected, got = (jax.grad(lambda p, x, f=f: jnp.sin(f(p, x)).sum(), argnums=(0, 1))(params, x) for f in (whole, last))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), got, expected)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("mini_batch_size", [1, 4, 10])
def test_steps_give_what_the_sequence_gives(inner, mini_batch_size):
    layer, x = make_layer(mini_batch_size, inner=inner), inputs(1, 9)[0]
    expected, last = layer.sequence(x, 9)
    state, step = layer.initial_state(), jax.jit(layer.step)
    for t in range(9):
        output, state = step(x[t], state)
        np.testing.assert_allclose(output, expected[t], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, last)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_prefix_and_its_continuation_give_the_whole(impl):
    layer, x = make_layer(4, impl), inputs(1, 11)[0]
    expected, last = layer.sequence(x, 11)
    for cut in (1, 4, 6, 10):
        # the prefix is padded: what comes after its length must not count
        first, state = layer.sequence(x, cut)
        second, state = layer.sequence(x[cut:], 11 - cut, state)
        np.testing.assert_allclose(jnp.concatenate([first[:cut], second]), expected, rtol=1e-4, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, last)


def test_rotary_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 8))

    def score(i, j):
        return (rotate(q, jnp.array([i]), 10000.0) @ rotate(k, jnp.array([j]), 10000.0).T)[0, 0]

    np.testing.assert_allclose(score(7, 3), score(4, 0), rtol=1e-4)
    assert abs(score(7, 3) - score(7, 2)) > 1e-3


def test_parameter_count_in_closed_form():
    D, H, F, b = 8, 2, 4, 10
    count = sum(p.size for p in jax.tree.leaves(nnx.state(make_layer(b), nnx.Param)))
    projections, fast, inner_norm, gate, post_norm = 4 * D * D, H * (F * F + F), 2 * H * F, H * (D + 1), 2 * D
    assert count == projections + fast + inner_norm + gate + b + post_norm
