"""Negatives sampled by popularity."""

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.data.dataset import Dataset


def items_by_popularity(dataset: Dataset) -> np.ndarray:
    """Return the items [V] by falling number of training clicks, ties by item number."""
    end_of_click = np.repeat(dataset.train_ends, np.diff(dataset.offsets))
    is_training = np.arange(len(dataset.items)) < end_of_click
    clicks_V = np.bincount(dataset.items[is_training], minlength=dataset.num_items + 1)[1:]
    return 1 + np.argsort(-clicks_V, kind="stable")


def log_uniform_negatives(
    key: jax.Array, by_popularity_V: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Return (items [K], the logarithm of each one's expected number among the K).

    The item of rank r, from 1 for the most popular, has probability log(1 + 1 / r) / log(V + 1):
    about Zipf's law. As in TensorFlow's log_uniform_candidate_sampler, which ComiRec's authors use,
    but drawn with replacement. by_popularity_V: the items in order of popularity.
    """
    num_items = len(by_popularity_V)
    log_all = jnp.log(num_items + 1.0)
    rank_K = jnp.exp(jax.random.uniform(key, (count,)) * log_all).astype(jnp.int32)
    rank_K = jnp.clip(rank_K, 1, num_items)  # rounding may reach V + 1
    log_expected_K = jnp.log(count * jnp.log1p(1 / rank_K) / log_all)
    return by_popularity_V[rank_K - 1], log_expected_K
