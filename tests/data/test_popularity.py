"""Negatives by popularity: their distribution and correction; negatives that are drawn once."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import make_dataset

from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.data.examples import training_examples
from ttt4rec_jax.data.popularity import items_by_popularity, log_uniform_negatives
from ttt4rec_jax.training import losses

V = 40


def test_items_by_popularity_count_training_clicks_alone():
    # the last two clicks of each user are held out
    dataset = make_dataset([[3, 3, 2, 1, 1], [3, 2, 1, 1], [5, 1, 1]], 6, num_negatives=2)
    assert items_by_popularity(dataset).tolist() == [3, 2, 5, 1, 4, 6]


def test_the_distribution_is_log_uniform_over_ranks():
    order = jnp.asarray(np.random.default_rng(0).permutation(V) + 1)
    drawn, log_expected = log_uniform_negatives(jax.random.key(0), order, 200_000)
    rank = np.arange(1, V + 1)
    probability = np.log1p(1 / rank) / np.log(V + 1)
    np.testing.assert_allclose(probability.sum(), 1)
    counts = np.bincount(np.asarray(drawn), minlength=V + 1)[np.asarray(order)]
    expected = 200_000 * probability
    assert ((counts - expected) ** 2 / expected).sum() < 2 * V, "chi-squared"
    rank_of = np.empty(V + 1, int)
    rank_of[np.asarray(order)] = rank
    np.testing.assert_allclose(
        np.exp(log_expected), expected[rank_of[np.asarray(drawn)] - 1], rtol=1e-4
    )


def test_the_corrected_loss_is_unbiased_in_its_normaliser():
    logits = jax.random.normal(jax.random.key(0), (V + 1,))
    order = jnp.arange(1, V + 1)
    target = jnp.array(7)

    def of(key, is_corrected):
        items, log_expected = log_uniform_negatives(key, order, 50)
        correction = (log_expected,) if is_corrected else ()
        return losses.sampled_softmax(logits[7], target, logits[items], items, V, *correction)

    keys = jax.random.split(jax.random.key(1), 4000)
    exact = jnp.exp(losses.softmax(logits, target, V))
    corrected, plain = (
        jnp.exp(jax.vmap(lambda key, c=c: of(key, c))(keys)).mean() for c in (True, False)
    )
    np.testing.assert_allclose(corrected, exact, rtol=0.02)
    assert abs(plain / exact - 1) > 0.05, "uncorrected, popular items count too much"


make_batch = jax.jit(batches.make_batch, static_argnums=(4, 5, 6))


def made(dataset, order, key, **train):
    config = Config(model=ModelConfig(max_len=4), train=TrainConfig(**train))
    examples, _ = training_examples(dataset, config)
    clicks = device_clicks(dataset)
    return make_batch(clicks, examples, order, key, config, dataset.num_items, 4)


def test_a_batch_of_log_uniform_negatives_has_their_expected_numbers(random_dataset):
    batch = made(
        random_dataset,
        jnp.arange(8),
        jax.random.key(0),
        loss="sampled_softmax",
        num_negatives=6,
        training_negatives="log_uniform",
    )
    rank_of = np.empty(random_dataset.num_items + 1, int)
    rank_of[items_by_popularity(random_dataset)] = np.arange(random_dataset.num_items)
    rank = rank_of[np.asarray(batch.negatives)]
    expected = 6 * np.log((rank + 2) / (rank + 1)) / np.log(random_dataset.num_items + 1)
    np.testing.assert_allclose(np.exp(batch.log_expected), expected, rtol=1e-4)


def test_fixed_negatives_belong_to_the_example_whatever_the_step(random_dataset):
    first = made(random_dataset, jnp.arange(8), jax.random.key(0), fixed_negatives=True)
    order = jnp.array([7, 2, 30, 0])
    again = made(random_dataset, order, jax.random.key(1), fixed_negatives=True)
    for row, example in ((0, 7), (1, 2), (3, 0)):
        np.testing.assert_array_equal(again.negatives[row], first.negatives[example])
    assert len(np.unique(np.asarray(first.negatives), axis=0)) > 4
    fresh = made(random_dataset, jnp.arange(8), jax.random.key(1))
    assert (fresh.negatives != first.negatives).any()
    # none that the user has clicked, as with fresh ones
    config = Config(model=ModelConfig(max_len=4))
    examples, _ = training_examples(random_dataset, config)
    for user, negatives in zip(np.asarray(examples.users)[:8], first.negatives, strict=True):
        training = slice(random_dataset.offsets[user], random_dataset.train_ends[user])
        assert not set(random_dataset.items[training].tolist()) & set(negatives.tolist())
