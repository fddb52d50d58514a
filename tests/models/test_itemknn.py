"""ItemKNN: scores against counted pairs of training clicks; held-out clicks do not count."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models import itemknn


@pytest.mark.parametrize("at_once", [2**24, 1])
def test_scores_count_users_who_trained_on_both(random_dataset, at_once, monkeypatch):
    monkeypatch.setattr(itemknn, "PAIRS_AT_ONCE", at_once)
    V = random_dataset.num_items
    counts = np.zeros((V + 1, V + 1))
    for start, end in zip(random_dataset.offsets[:-1], random_dataset.train_ends, strict=True):
        for a, b in itertools.permutations(set(random_dataset.items[start:end].tolist()), 2):
            counts[a, b] += 1
    model = models.build(
        ModelConfig(model="itemknn"),
        V,
        0,
        training=models.TrainingClicks.from_dataset(random_dataset),
    )
    last = jnp.arange(1, V + 1)
    items = jnp.arange(1, V + 1)
    history = jnp.stack([jnp.full_like(last, 2), last, jnp.zeros_like(last)], 1)
    np.testing.assert_array_equal(
        model.score(history, jnp.full_like(last, 2), items), counts[1:, 1:]
    )
