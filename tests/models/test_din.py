"""DIN: its score against the paper's formula, with the activation unit's first map in one piece."""

import jax.numpy as jnp
import numpy as np

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig

D = 8
L = 5


def affine(x, layer):
    return x @ np.asarray(layer.w[...]) + np.asarray(layer.b[...])


def prelu(x, layer):
    return np.where(x > 0, x, np.asarray(layer.slope[...]) * x)


def test_score_equals_its_formula():
    model = models.build(ModelConfig(model="din", dim=D, max_len=L), 30, 0)
    table = np.asarray(model.embedding[...])
    history = [3, 9, 3]
    candidates = [4, 3, 17]
    expected = []
    for candidate in table[candidates]:
        pooled = np.zeros(D)
        for click in table[history]:
            joined = np.concatenate([click, candidate, click - candidate, click * candidate])
            pooled += (
                affine(prelu(affine(joined, model.unit_1), model.unit_act), model.unit_2) * click
            )
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
