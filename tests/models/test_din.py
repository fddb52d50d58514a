"""DIN: its score against the paper's formula, with the activation unit's first map in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig

D = 8
L = 5


def affine(x, layer):
    return x @ np.asarray(layer.w[...]) + np.asarray(layer.b[...])


def prelu(x, layer):
    return np.where(x > 0, x, np.asarray(layer.slope[...]) * x)


@pytest.mark.parametrize("attention", ["softmax", "unnormalized"])
def test_score_equals_its_formula(attention):
    model = models.build(ModelConfig(model="din", dim=D, max_len=L, din_attention=attention), 30, 0)
    for layer in (model.unit_1, model.unit_2):
        layer.w[...] *= 5  # weights that differ
    table = np.asarray(model.embedding[...])
    history = [3, 9, 3]
    candidates = [4, 3, 17]
    expected = []
    for candidate in table[candidates]:
        weights = []
        for click in table[history]:
            joined = np.concatenate([click, candidate, click - candidate, click * candidate])
            hidden = prelu(affine(joined, model.unit_1), model.unit_act)
            weights.append(affine(hidden, model.unit_2)[0])
        if attention == "softmax":
            weights = np.exp(weights) / np.exp(weights).sum()
        pooled = np.asarray(weights) @ table[history]
        x = np.concatenate([pooled, candidate, pooled * candidate])
        x = prelu(
            affine(prelu(affine(x, model.out_1), model.out_act_1), model.out_2), model.out_act_2
        )
        expected.append(affine(x, model.out_3)[0])
    got = model.score(jnp.array([[*history, 0, 0]]), jnp.array([3]), jnp.array(candidates))
    np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-5)
    # many candidates are scored by another order of products
    many = model.score(jnp.array([[*history, 0, 0]]), jnp.array([3]), jnp.array(candidates * 20))
    np.testing.assert_allclose(many[0], expected * 20, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        got, model.score(jnp.array([[*history, 0, 0]]), jnp.array([3]), jnp.array([candidates]))
    )


def test_gradients_with_padding_and_without_clicks_are_those_without_padding():
    model = models.build(ModelConfig(model="din", dim=D, max_len=L), 30, 0)
    model.unit_2.b[...] += 200.0  # padding would overflow the exponential

    def gradient(history, length):
        def loss(model):
            return jnp.square(model.score(history, length, jnp.array([4, 3]))).sum()

        return jax.tree.leaves(nnx.grad(loss)(model))

    padded = gradient(jnp.array([[3, 9, 0, 0, 0]]), jnp.array([2]))
    for a, b in zip(padded, gradient(jnp.array([[3, 9]]), jnp.array([2])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert all(jnp.isfinite(g).all() for g in gradient(jnp.zeros((1, L), int), jnp.array([0])))
