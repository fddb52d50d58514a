"""BERT4Rec: masked batches, bidirectional attention, the mask appended to the history."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.data.examples import training_examples

SIZES = {"model": "bert4rec", "dim": 8, "max_len": 6}


def test_masked_batches_mask_clicks_of_the_training_sequences(random_dataset):
    config = Config(
        model=ModelConfig(**SIZES, mask_probability=0.4, mask_last_probability=0.2),
        train=TrainConfig(batch_size=8, length_buckets=2),
    )
    assert config.train.targets == "masked"
    clicks = device_clicks(random_dataset)
    mask = random_dataset.num_items + 1
    examples, buckets = training_examples(random_dataset, config)
    masked = 0
    last_only = 0
    valid = 0
    rows = 0
    order = jnp.arange(buckets[-1].first, buckets[-1].stop)
    make_batch = jax.jit(
        lambda key: batches.make_batch(
            clicks, examples, order, key, config, mask - 1, buckets[-1].length
        )
    )
    for seed in range(40):
        batch = make_batch(jax.random.key(seed))
        history, target, weight = (
            np.asarray(x) for x in (batch.history, batch.target, batch.weight)
        )
        for row, example in enumerate(np.asarray(order)):
            end = int(examples.ends[example])
            count = int(examples.counts[example])
            sequence = random_dataset.items[end - count : end + 1]
            assert batch.length[row] == count + 1
            np.testing.assert_array_equal(target[row, : count + 1], sequence)
            is_masked = weight[row] > 0
            assert is_masked.any() and not is_masked[count + 1 :].any(), (
                "each sequence has a masked click, padding never"
            )
            np.testing.assert_array_equal(history[row], np.where(is_masked, mask, target[row]))
            masked += is_masked.sum()
            last_only += is_masked.sum() == 1 and is_masked[count]
            valid += count + 1
            rows += 1
    assert abs(masked / valid - 0.4) < 0.08 and 0.2 < last_only / rows < 0.5


def test_an_output_depends_on_clicks_on_both_sides_and_on_no_padding(random_dataset):
    model = models.build(ModelConfig(**SIZES), random_dataset.num_items, 0)
    history = jnp.array([[3, 31, 9, 4, 0, 0, 0]])
    encode = jax.jit(lambda history: model.encode(history, jnp.array([4]), every=True)[0, 1, 0])
    expected = encode(history)
    for position in (0, 2, 3):
        assert np.abs(encode(history.at[0, position].set(11)) - expected).max() > 1e-6
    np.testing.assert_array_equal(encode(history.at[0, 5].set(11)), expected)


def test_a_user_vector_is_the_output_at_a_mask_appended_to_the_history(random_dataset):
    model = models.build(ModelConfig(**SIZES), random_dataset.num_items, 0)
    encode = nnx.jit(
        lambda model, *args, every: model.encode(*args, every), static_argnames="every"
    )
    history = jnp.array([[3, 7, 9, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    got = encode(model, history, jnp.array([3, 6]), every=False)
    mask = random_dataset.num_items + 1
    masked = jnp.array([[3, 7, 9, mask, 0, 0, 0], [1, 2, 3, 4, 5, 6, mask]])
    every = encode(model, masked, jnp.array([4, 7]), every=True)
    np.testing.assert_allclose(got[0], every[0, 3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], every[1, 6], rtol=1e-4, atol=1e-5)
