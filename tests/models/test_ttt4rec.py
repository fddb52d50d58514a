"""TTT4Rec: parameters in closed form, causality, inert padding, and one user vector read out two ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig

LENGTH = 6


def build(dataset, **settings):
    sizes = {"dim": 8, "num_heads": 2, "mini_batch_size": 4, "max_len": LENGTH, "num_blocks": 2, "initializer_range": 0.3}
    return models.build(ModelConfig(**sizes | settings), dataset, 0)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("ffn", [False, True])
@pytest.mark.parametrize("target_tower", ["mlp", "none"])
def test_parameter_count(random_dataset, inner, ffn, target_tower):
    model = build(random_dataset, inner=inner, ffn=ffn, target_tower=target_tower)
    D, H, F, b, V = 8, 2, 4, 4, random_dataset.num_items
    fast = F * F + F if inner == "linear" else 2 * F * 4 * F + 4 * F + F
    ttt = 4 * D * D + H * (fast + 2 * F + D + 1) + b + 2 * D
    block = D + ttt + (D + 2 * D * 4 * D + 4 * D + D if ffn else 0)
    tower = 2 * (D * D + D) if target_tower == "mlp" else 0
    assert sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))) == (V + 1) * D + 2 * block + D + tower


@pytest.mark.parametrize("ffn", [False, True])
def test_a_click_changes_no_earlier_output(random_dataset, ffn):
    model = build(random_dataset, ffn=ffn)
    history = jnp.array([[3, 7, 1, 9, 4, 2]])
    encode = nnx.jit(lambda model, history: model.encode(history, jnp.array([LENGTH]), every=True)[0])
    expected = encode(model, history)
    for changed in range(LENGTH):
        got = encode(model, history.at[0, changed].set(11))
        np.testing.assert_array_equal(got[:changed], expected[:changed])
        assert (np.abs(got[changed:] - expected[changed:]).max(-1) > 0).all()


@pytest.mark.parametrize("every", [False, True])
def test_padding_is_inert(random_dataset, every):
    model, lengths = build(random_dataset), jnp.array([3, 1])
    history = jnp.array([[3, 7, 1, 0, 0, 0], [4, 0, 0, 0, 0, 0]])
    garbage = jnp.where(history > 0, history, 5)
    encode = nnx.jit(lambda model, history: model.encode(history, lengths, every))
    a, b = encode(model, history), encode(model, garbage)
    valid = (jnp.arange(LENGTH) < lengths[:, None])[..., None] if every else True
    np.testing.assert_array_equal(jnp.where(valid, a, 0), jnp.where(valid, b, 0))


def test_the_last_of_every_output_is_the_user_vector(random_dataset):
    model, lengths = build(random_dataset), jnp.array([6, 2])
    history = jnp.array([[3, 7, 1, 9, 4, 2], [8, 8, 0, 0, 0, 0]])
    every = jnp.take_along_axis(model.encode(history, lengths, every=True), lengths[:, None, None] - 1, 1)[:, 0]
    np.testing.assert_allclose(model.encode(history, lengths), every, rtol=1e-4, atol=1e-5)


def test_initializer_range_and_fast_weight_range(random_dataset):
    def spread(**settings):
        model = build(random_dataset, dim=64, **settings)
        ttt = model.blocks[0].mixer
        return [float(jnp.std(p[...])) for p in (ttt.theta_q, ttt.lr_gate_kernel, ttt.fast_weights[0][0])]

    np.testing.assert_allclose(spread(initializer_range=0.1), [0.1, 0.1, 0.1], rtol=0.2)
    np.testing.assert_allclose(spread(initializer_range=0.1, fast_weight_range=0.5), [0.1, 0.1, 0.5], rtol=0.2)
