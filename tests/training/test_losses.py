"""Each loss against its formula in NumPy, and against the loss that it approximates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt4rec_jax.training import losses, objective

POSITIVE = jnp.array(0.7)
NEGATIVES = jnp.array([-1.2, 0.3, 2.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_bce():
    expected = -np.mean([np.log(sigmoid(POSITIVE)), *np.log(1 - sigmoid(NEGATIVES))])
    np.testing.assert_allclose(losses.bce(POSITIVE, NEGATIVES), expected, rtol=1e-5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_bce_is_finite_far_out(sign):
    value, slope = jax.value_and_grad(lambda s: losses.bce(s, -s[None]))(jnp.array(sign * 1e4))
    assert np.isfinite(value) and np.isfinite(slope)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_gbce(t):
    num_items = 31
    alpha = 3 / (num_items - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    expected = -np.mean([beta * np.log(sigmoid(POSITIVE)), *np.log(1 - sigmoid(NEGATIVES))])
    np.testing.assert_allclose(losses.gbce(POSITIVE, NEGATIVES, num_items, t), expected, rtol=1e-5)


def test_gbce_at_zero_is_bce():
    np.testing.assert_allclose(
        losses.gbce(POSITIVE, NEGATIVES, 31, 0.0), losses.bce(POSITIVE, NEGATIVES), rtol=1e-6
    )


def test_softmax_leaves_the_padding_item_out():
    logits = np.array([[9.0, 0.1, -0.4, 1.3], [9.0, 0.0, 2.0, -1.0]])
    expected = [
        np.log(np.exp(row[1:]).sum()) - row[t] for row, t in zip(logits, (3, 1), strict=True)
    ]
    np.testing.assert_allclose(
        losses.softmax(jnp.asarray(logits), jnp.array([3, 1]), 3), expected, rtol=1e-5
    )


def test_softmax_leaves_out_ids_beyond_the_items():
    logits = np.array([9.0, 0.1, -0.4, 1.3, 7.0, 8.0])
    got = losses.softmax(jnp.asarray(logits), jnp.array(3), 3)
    np.testing.assert_allclose(
        got, losses.softmax(jnp.asarray(logits[:4]), jnp.array(3), 3), rtol=1e-6
    )


def test_sampled_softmax_over_all_other_items_is_softmax():
    logits = jnp.array([9.0, 0.1, -0.4, 1.3, 0.8])
    others = jnp.array([1, 2, 4])
    got = losses.sampled_softmax(logits[3], jnp.array(3), logits[others], others, 4)
    np.testing.assert_allclose(got, losses.softmax(logits, jnp.array(3), 4), rtol=1e-5)


def test_sampled_softmax_leaves_out_samples_of_the_target():
    without = losses.sampled_softmax(
        jnp.array(0.5), jnp.array(3), jnp.array([0.2, -0.1]), jnp.array([1, 2]), 101
    )
    # the same two samples beside a hit: each still counts for 100 / K items, where K is now 3
    hit = losses.sampled_softmax(
        jnp.array(0.5), jnp.array(3), jnp.array([0.2, 0.5, -0.1]), jnp.array([1, 3, 2]), 151
    )
    np.testing.assert_allclose(hit, without, rtol=1e-5)


def test_sampled_softmax_is_unbiased_in_its_normaliser():
    logits = jax.random.normal(jax.random.key(0), (201,))
    samples = jax.random.randint(jax.random.key(1), (4000, 50), 1, 201)
    loss = jax.vmap(lambda s: losses.sampled_softmax(logits[7], jnp.array(7), logits[s], s, 200))(
        samples
    )
    # exp(loss) is the normaliser over exp(positive); a sample that hits (1 in 200) is left out
    np.testing.assert_allclose(
        jnp.exp(loss).mean(), jnp.exp(losses.softmax(logits, jnp.array(7), 200)), rtol=0.02
    )


@pytest.mark.parametrize("rows", [1, 7, 100])  # chunks of 1 position, of 3 with 1 over, one chunk
def test_a_loss_by_positions_is_that_of_all_positions(rows, monkeypatch):
    monkeypatch.setattr(objective, "CHUNK_ROWS", rows)
    monkeypatch.setattr(objective, "CHUNK_LOGITS", rows * 6)
    keys = jax.random.split(jax.random.key(0), 3)
    users_2x4x1x3 = jax.random.normal(keys[0], (2, 4, 1, 3))
    items_6x3 = jax.random.normal(keys[1], (6, 3))
    target_2x4 = jax.random.randint(keys[2], (2, 4), 1, 6)
    added_2x4 = jnp.arange(8.0).reshape(2, 4)

    def mean_loss(by_positions, users, items):
        def loss(users, target, added):
            return losses.softmax(users[..., 0, :] @ items.T, target, 5) + added

        rows = users, target_2x4, added_2x4
        whole = objective.by_positions(loss, 6, *rows) if by_positions else loss(*rows)
        return (whole * added_2x4).mean(), whole

    got, expected = (
        jax.value_and_grad(functools.partial(mean_loss, chunked), (0, 1), has_aux=True)(
            users_2x4x1x3, items_6x3
        )
        for chunked in (True, False)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)
    program = jax.make_jaxpr(functools.partial(mean_loss, True))(users_2x4x1x3, items_6x3)
    assert ("scan" in str(program)) == (rows < 8)  # one chunk needs no loop
