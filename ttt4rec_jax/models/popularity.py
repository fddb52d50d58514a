"""Popularity: items by their number of training clicks, the same for every user; a baseline."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from data_prep.index import is_training
from ttt4rec_jax.models.interface import Key, TrainingClicks

EXACT = 2**24  # whole numbers up to here are exact in float32


def as_scores(counts: np.ndarray) -> np.ndarray:
    """Return float32 numbers in the order of counts, equal only where those are equal.

    They are the counts unless one is too large for float32, otherwise their ranks from 0.
    """
    if counts.max(initial=0) > EXACT:
        counts = np.unique(counts, return_inverse=True)[1]
    return counts.astype(np.float32)


class Popularity(nnx.Module):
    """A TwoTower that scores an item by its number of training clicks.

    Held-out clicks do not count, since they would leak.
    """

    def __init__(self, training: TrainingClicks, num_items: int):
        items = training.items[is_training(training.offsets, training.train_ends)]
        clicks = np.bincount(items, minlength=num_items + 1)
        self.clicks_V = nnx.Param(jnp.asarray(as_scores(clicks)))

    def encode(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        every: bool = False,
        key: Key = None,
    ) -> Float[Array, "B 1 1"]:
        """Return the number 1 for every user."""
        return jnp.ones((history_BxL.shape[0], 1, 1))

    def item_vectors(self, items: Int[Array, "*items"]) -> Float[Array, "*items 1"]:
        """Return the items' numbers of training clicks, as vectors of length 1."""
        return self.clicks_V[...][items][..., None]
