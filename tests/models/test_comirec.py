"""ComiRec: interests against loops, the interest that trains and scores, diverse aggregation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.comirec import diverse_top_k, squash

D = 8
L = 6
K = 3
LENGTH = 4


def build(name, **more):
    return models.build(ModelConfig(model=name, dim=D, max_len=L, num_interests=K, **more), 30, 0)


def clicks(seed=1):
    """Return the embedded clicks of one history and which of them are valid."""
    return jax.random.normal(jax.random.key(seed), (L, D)), jnp.arange(L) < LENGTH


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_self_attentive_interests_equal_equations_5_and_6():
    model = build("comirec_sa")
    x_LxD, valid_L = clicks()
    position = np.asarray(model.positions[...])
    h = np.stack([x_LxD[t] + position[LENGTH - 1 - t] for t in range(LENGTH)])
    a = softmax(np.tanh(h @ np.asarray(model.w1[...])) @ np.asarray(model.w2[...]), 0)
    got = model.interests(x_LxD[None], valid_L[None], jnp.array([LENGTH]))[0]
    np.testing.assert_allclose(got, a.T @ np.asarray(x_LxD[:LENGTH]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 3])
def test_dynamic_routing_equals_algorithm_1(iterations):
    model = build("comirec_dr", routing_iterations=iterations)
    x_LxD, valid_L = clicks()
    votes = np.asarray(x_LxD[:LENGTH]) @ np.asarray(model.bilinear[...])
    logits = np.random.default_rng(0).standard_normal((L, K), np.float32)[:LENGTH][::-1].copy()
    for _ in range(iterations):
        sums = softmax(logits, 1).T @ votes
        square = np.square(sums).sum(-1, keepdims=True)
        capsules = square / (1 + square) * sums / np.sqrt(square)
        logits += votes @ capsules.T
    got = model.interests(x_LxD[None], valid_L[None], jnp.array([LENGTH]))[0]
    np.testing.assert_allclose(got, capsules, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("width", [L, LENGTH])
def test_routing_by_own_maps_equals_algorithm_1(iterations, width):
    model = build("comirec_dr", routing_iterations=iterations, routing="own")
    x_LxD, _ = clicks()
    maps = np.asarray(model.bilinear[...])
    # the last click has the first map, however far the history is padded
    votes = np.stack(
        [[np.asarray(x_LxD[t]) @ maps[LENGTH - 1 - t, k] for k in range(K)] for t in range(LENGTH)]
    )
    logits = np.zeros((LENGTH, K))
    for _ in range(iterations):
        sums = np.einsum("lk,lkd->kd", softmax(logits, 1), votes)
        square = np.square(sums).sum(-1, keepdims=True)
        capsules = square / (1 + square) * sums / np.sqrt(square)
        logits += np.einsum("lkd,kd->lk", votes, capsules)
    valid_L = jnp.arange(width) < LENGTH
    got = model.interests(x_LxD[None, :width], valid_L[None], jnp.array([LENGTH]))[0]
    np.testing.assert_allclose(got, capsules, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["comirec_sa", "comirec_dr"])
def test_interests_differ_and_a_history_without_clicks_is_finite(name):
    model = build(name)
    history = jnp.array([[3, 7, 1, 9, 0, 0], [0] * 6])

    @nnx.jit
    def interests_and_gradients(model):
        def loss(model):
            return jnp.square(model.encode(history[1:], jnp.array([0]))).sum()

        return model.encode(history, jnp.array([4, 0])), nnx.grad(loss)(model)

    interests, gradients = interests_and_gradients(model)
    assert np.isfinite(interests).all()
    assert (
        min(np.abs(interests[0, i] - interests[0, j]).max() for i in range(K) for j in range(i))
        > 1e-6
    )
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_squash_of_zero_is_zero_with_a_finite_slope():
    assert (squash(jnp.zeros(3)) == 0).all()
    assert np.isfinite(jax.jacobian(squash)(jnp.zeros(3))).all()


def test_the_interest_nearest_the_target_trains_and_the_best_one_scores():
    interests = jnp.array([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]])
    target = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(
        models.nearest_interest(interests, target), [[0.0, 2.0], [0.0, 1.0]]
    )
    items = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_array_equal(
        models.over_interests(interests, lambda u: u @ items.T, "nearest"),
        [[1, 2, -1], [3, 1, -1]],
    )


@pytest.mark.parametrize("diversity", [0.0, 0.3, 5.0])
def test_diverse_aggregation_equals_its_greedy_definition(diversity):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20).astype(np.float32)
    categories = rng.integers(0, 4, 20)
    chosen = []
    for _ in range(6):
        gain = {
            i: scores[i] + diversity * sum(categories[i] != categories[j] for j in chosen)
            for i in range(20)
            if i not in chosen
        }
        chosen.append(max(gain, key=gain.get))
    got = diverse_top_k(scores, jnp.asarray(categories), 6, diversity)
    np.testing.assert_array_equal(got, chosen)
