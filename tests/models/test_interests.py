"""The rules by which interests score: one function for training, evaluation and the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_batch

from ttt4rec_jax import models
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.training import losses, objective

V = 30
MODELS = ["comirec_sa", "comirec_dr"]


def config(name="comirec_sa", rule="auto", loss="bce"):
    model = ModelConfig(model=name, dim=8, max_len=4, num_interests=3, interest_rule=rule)
    return Config(model=model, train=TrainConfig(loss=loss))


def build(config):
    """A model whose embeddings are wide enough that its interests disagree."""
    model = models.build(config.model, V, 0)
    model.embedding[...] *= 50
    return model


def batch_of(negatives=None) -> Batch:
    batch = random_batch(np.random.default_rng(0), 16, np.arange(1, V + 1))
    return batch if negatives is None else batch._replace(negatives=jnp.asarray(negatives))


def evaluated(model, batch, items_BxC):
    """The scores of candidates in the evaluation."""
    users = model.encode(batch.history, batch.length)
    return ranking.Products(model).candidates(users, model.item_vectors(items_BxC))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rule", ["own", "soft"])
def test_training_scores_as_evaluation_does(name, rule):
    asked = config(name, rule)
    model = build(asked)
    batch = batch_of()
    scores = objective.batch_scores(model, batch, asked, None)
    expected = evaluated(model, batch, jnp.concatenate([batch.target[:, None], batch.negatives], 1))
    np.testing.assert_allclose(scores.positive, expected[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores.negatives, expected[:, 1:], rtol=1e-4, atol=1e-5)


def test_nearest_scores_negatives_lower_than_evaluation_does():
    asked = config(rule="nearest")
    model = build(asked)
    batch = batch_of()
    scores = objective.batch_scores(model, batch, asked, None)
    expected = evaluated(model, batch, batch.negatives)
    assert (scores.negatives <= expected + 1e-4).all()
    assert (scores.negatives < expected - 0.1).mean() > 0.2


@pytest.mark.parametrize("rule", ["own", "soft"])
def test_the_loss_over_the_catalogue_takes_the_scores_of_the_evaluation(rule):
    asked = config(rule=rule, loss="softmax")
    model = build(asked)
    batch = batch_of(negatives=np.zeros(0, np.int32))
    scores = objective.batch_scores(model, batch, asked, None)
    items_BxV = jnp.broadcast_to(jnp.arange(V + 1), (16, V + 1))
    np.testing.assert_allclose(
        objective.target_losses(model, scores, batch, asked, V),
        losses.softmax(evaluated(model, batch, items_BxV), batch.target, V),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("rule", ["own", "soft"])
def test_the_loss_over_a_shared_sample_takes_the_scores_of_the_evaluation(rule):
    asked = config(rule=rule, loss="sampled_softmax")
    model = build(asked)
    batch = batch_of(negatives=np.array([2, 5, 3, 5, 1], np.int32))
    batch = batch._replace(log_expected=jnp.log(jnp.arange(1.0, 6.0)))
    items_Bx6 = jnp.concatenate(
        [batch.target[:, None], jnp.broadcast_to(batch.negatives, (16, 5))], 1
    )
    expected_Bx6 = evaluated(model, batch, items_Bx6)
    np.testing.assert_allclose(
        objective.target_losses(
            model, objective.batch_scores(model, batch, asked, None), batch, asked, V
        ),
        losses.sampled_softmax(
            expected_Bx6[:, 0],
            batch.target,
            expected_Bx6[:, 1:],
            batch.negatives,
            V,
            batch.log_expected,
        ),
        rtol=1e-4,
        atol=1e-4,
    )


def test_scores_by_formula():
    interests = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    items = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    products = interests @ items.T  # [2, 3, 5]
    weights = np.exp(products) / np.exp(products).sum(1, keepdims=True)
    for rule, expected in {"own": products.max(1), "soft": (weights * products).sum(1)}.items():
        got = models.over_interests(jnp.asarray(interests), lambda u: u @ items.T, rule)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_soft_scores_of_large_and_of_infinite_products():
    def soft(*products):
        interests = jnp.asarray(products, jnp.float32)[:, None]
        return float(models.over_interests(interests, lambda u: u[0], "soft"))

    assert soft(1e4, -1e4, 0.0) == 1e4
    assert soft(-1e4, -1e4) == -1e4
    assert np.isnan(soft(1.0, np.nan))


def test_one_interest_is_scored_by_the_same_program_whatever_the_rule():
    users = jnp.ones((4, 1, 8))
    items = jnp.ones((4, 5, 8))

    def program(scores):
        return jax.jit(scores).lower(users, items).as_text()

    def products(users, items):
        return (users[:, 0][:, None] * items).sum(-1)

    def by(rule):
        def products(users, items):
            scorer = ranking.Products(None)
            scorer.rule = rule
            return scorer.candidates(users, items)

        return program(products)

    expected = program(products).splitlines()
    for rule in ("own", "nearest", "soft"):
        got = by(rule).splitlines()
        assert [line.split("=")[-1] for line in got] == [line.split("=")[-1] for line in expected]


def test_auto_is_own_for_absolute_scores_and_nearest_for_a_softmax():
    rules = {loss: config(loss=loss).model.interest_rule for loss in ("bce", "gbce", "softmax")}
    assert rules == {"bce": "own", "gbce": "own", "softmax": "nearest"}
    assert config(loss="sampled_softmax").model.interest_rule == "nearest"
    assert config(rule="soft", loss="softmax").model.interest_rule == "soft"
    assert Config(model=ModelConfig(model="sasrec")).model.interest_rule == "auto"


@pytest.mark.optimized
def test_equal_items_get_soft_scores_of_equal_bits():
    # tiles of the evaluation, several compiled shapes, and counts that no vector width divides
    class Soft:
        interest_rule = "soft"

    rng = np.random.default_rng(0)
    users = rng.normal(size=(523, 3, 50)).astype(np.float32)
    item = rng.normal(size=50).astype(np.float32)
    scorer = ranking.Products(Soft())
    tile = jnp.broadcast_to(item, (ranking.TILE, 50))
    of_tile = np.asarray(jax.jit(scorer.tile)(users[:512], tile))
    of_target = np.asarray(jax.jit(scorer.targets)(users[:512], tile))
    np.testing.assert_array_equal(of_tile, np.broadcast_to(of_target[:, None], of_tile.shape))
    of_candidates = np.asarray(
        jax.jit(scorer.candidates)(users, jnp.broadcast_to(item, (523, 33, 50)))
    )
    np.testing.assert_array_equal(
        of_candidates, np.broadcast_to(of_candidates[:, :1], of_candidates.shape)
    )
