"""A model and an inner learner that are not part of the package; settings of small trainings."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

import ttt4rec_jax as t4r
from ttt4rec_jax.models.layers import TwoTowerModel

TINY = {"dim": 8, "max_len": 5, "epochs": 2, "learning_rate": 0.005, "progress": False}


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

    def encode(self, history_BxL, length_B, key=None):
        age_BxL = length_B[:, None] - 1 - jnp.arange(history_BxL.shape[1])
        weight_BxL = jnp.where(age_BxL >= 0, self.decay**age_BxL, 0.0)
        return self.user_vectors((weight_BxL[..., None] * self.embedding[...][history_BxL]).sum(1))


cubic = t4r.InnerLearner(
    init=lambda key, width, std: std * jax.random.normal(key, (width, width)),
    apply=lambda w, x: x @ w + (x @ w) ** 3,
)


class WithoutTable(nnx.Module):
    """A model without a base class of the package; wrong about being causal."""

    capabilities = t4r.Capabilities(("last", "every"), sparse=False)

    def __init__(self, config, num_items, rngs):
        self.items = nnx.Param(0.1 * jax.random.normal(rngs.params(), (num_items + 1, config.dim)))

    def encode(self, history_BxL, length_B, every=False, key=None):
        return self.item_vectors(history_BxL).sum(1, keepdims=True)

    def item_vectors(self, items):
        return self.items[...][items] * (items > 0)[..., None]


class Pairs(WithoutTable):
    """The same as a model that scores pairs."""

    capabilities = None
    encode = None

    def score(self, history_BxL, length_B, candidates, key=None):
        user = self.item_vectors(history_BxL).sum(1)
        shape = (len(user), candidates.shape[-1])
        return jnp.einsum(
            "bd,bcd->bc", user, self.item_vectors(jnp.broadcast_to(candidates, shape))
        )
