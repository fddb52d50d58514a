"""A model and an inner learner that are not part of the package, as a user would write them."""

import dataclasses

import jax
import jax.numpy as jnp

import ttt4rec_jax as t4r
from ttt4rec_jax.models.layers import TwoTowerModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanConfig(t4r.ModelConfig):
    decay: float = t4r.option(0.8, "Weight of a click relative to the next.", above=0.0, high=1.0)
    power: int = 1  # an option without help and limits


class DecayedMean(TwoTowerModel):
    """Clicks count less the older they are."""

    config_class = MeanConfig

    def __init__(self, config, num_items, rngs):
        super().__init__(config, num_items, rngs)
        self.decay = config.decay**config.power

    def encode(self, history_BxL, length_B, every=False, key=None):
        age_BxL = length_B[:, None] - 1 - jnp.arange(history_BxL.shape[1])
        weight_BxL = jnp.where(age_BxL >= 0, self.decay**age_BxL, 0.0)
        return self.user_vectors((weight_BxL[..., None] * self.embedding[...][history_BxL]).sum(1))


cubic = t4r.InnerLearner(
    init=lambda key, width, std: std * jax.random.normal(key, (width, width)),
    apply=lambda w, x: x @ w + (x @ w) ** 3,
)
