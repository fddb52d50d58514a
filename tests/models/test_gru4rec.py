"""GRU4Rec: the recurrence against its equations, position by position."""

import jax
import numpy as np
from flax import nnx

from ttt4rec_jax.models.gru4rec import Gru


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_recurrence_equals_its_equations():
    D = 4
    layer = Gru(D, nnx.Rngs(0))
    layer.b[...] = jax.random.normal(jax.random.key(2), (3 * D,))
    layer.c_n[...] = jax.random.normal(jax.random.key(3), (D,))
    x = jax.random.normal(jax.random.key(1), (7, D))
    (w_r, w_z, w_n), (u_r, u_z, u_n), (b_r, b_z, b_n) = (
        np.split(np.asarray(p[...]), 3, -1) for p in (layer.w, layer.u, layer.b)
    )
    h = np.zeros(D)
    expected = []
    for x_t in np.asarray(x):
        r = sigmoid(x_t @ w_r + h @ u_r + b_r)
        z = sigmoid(x_t @ w_z + h @ u_z + b_z)
        n = np.tanh(x_t @ w_n + b_n + r * (h @ u_n + np.asarray(layer.c_n[...])))
        h = z * h + (1 - z) * n
        expected.append(h)
    np.testing.assert_allclose(layer(x[None])[0], expected, rtol=1e-4, atol=1e-5)
