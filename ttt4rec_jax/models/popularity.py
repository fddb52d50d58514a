"""Popularity: items by their training clicks, the same for everybody. The floor that any model must clear."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_prep.index import is_training
from ttt4rec_jax.data.dataset import Dataset


class Popularity(nnx.Module):
    """Scores an item by its number of training clicks; held-out clicks do not count, since that would leak them."""

    def __init__(self, dataset: Dataset):
        trained = is_training(dataset.offsets, dataset.train_ends)
        clicks = np.bincount(dataset.items[trained], minlength=dataset.num_items + 1)
        self.clicks_V = nnx.Param(jnp.asarray(clicks, jnp.float32))

    def encode(self, history_BxL, length_B, every: bool = False, key=None):
        return jnp.ones((history_BxL.shape[0], 1, 1))

    def item_vectors(self, items):
        return self.clicks_V[...][items][..., None]
