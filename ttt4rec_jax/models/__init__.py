"""The recommenders; interface.py describes their common interface."""

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import ArrayLike

from ttt4rec_jax.config import MODELS, ModelConfig
from ttt4rec_jax.config.models import CUSTOM
from ttt4rec_jax.models.bert4rec import Bert4Rec
from ttt4rec_jax.models.comirec import ComiRecDr, ComiRecSa
from ttt4rec_jax.models.dense import draw_xavier
from ttt4rec_jax.models.din import Din
from ttt4rec_jax.models.gru4rec import Gru4Rec
from ttt4rec_jax.models.iclrec import IclRec
from ttt4rec_jax.models.interests import nearest_interest, over_interests, rule_of
from ttt4rec_jax.models.interface import (
    HasAuxiliaryLoss,
    HasItemTable,
    LearnsContext,
    PairScorer,
    StreamingModel,
    TrainingClicks,
    TwoTower,
)
from ttt4rec_jax.models.itemknn import ItemKnn
from ttt4rec_jax.models.popularity import Popularity
from ttt4rec_jax.models.sasrec import SasRec
from ttt4rec_jax.models.ttt4rec import Ttt4Rec
from ttt4rec_jax.ttt.layer import Ranges
from ttt4rec_jax.ttt.select import select_impl

__all__ = [
    "TRAINED",
    "UNTRAINED",
    "HasAuxiliaryLoss",
    "HasItemTable",
    "LearnsContext",
    "PairScorer",
    "StreamingModel",
    "TrainingClicks",
    "TwoTower",
    "build",
    "nearest_interest",
    "over_interests",
    "rule_of",
    "split",
    "ttt_impl",
]

TRAINED: dict[str, Callable[[ModelConfig, int, nnx.Rngs], nnx.Module]] = {
    "sasrec": SasRec,
    "gru4rec": Gru4Rec,
    "din": Din,
    "comirec_sa": ComiRecSa,
    "comirec_dr": ComiRecDr,
    "bert4rec": Bert4Rec,
    "iclrec": IclRec,
}
UNTRAINED: dict[str, Callable[[TrainingClicks, int], nnx.Module]] = {
    "popularity": Popularity,
    "itemknn": ItemKnn,
}


def build(
    config: ModelConfig,
    num_items: int,
    seed: int | jax.Array,
    ranges: Ranges | None = None,
    training: TrainingClicks | None = None,
) -> nnx.Module:
    """Return the model that config names, with initial parameters drawn from the seed.

    Args:
        ranges: Replace those of config if given.
        training: The clicks that an untrained model (UNTRAINED) counts.

    Raises ValueError if an untrained model gets no clicks.
    """
    if not MODELS[config.model].trained:
        if training is None:
            raise ValueError(f"{config.model} is not trained: build() needs the training clicks")
        return UNTRAINED[config.model](training, num_items)
    rngs = nnx.Rngs(params=jax.random.key(seed))
    if config.model == "ttt4rec":
        ranges = ranges or Ranges(config.initializer_range, config.w0_range)
        return Ttt4Rec(config, ranges, num_items, rngs)
    cls = CUSTOM[config.model].cls if config.model in CUSTOM else TRAINED[config.model]
    model = cls(config, num_items, rngs)
    if config.initializer == "xavier":
        draw_xavier(model, rngs)
    return model


def ttt_impl(config: ModelConfig) -> str:
    """Return the implementation of the model's TTT layers, "" for a model without any.

    With --ttt_impl=auto it depends on the shape of the layers.
    """
    if config.model != "ttt4rec":
        return ""
    if config.ttt_impl != "auto":
        return config.ttt_impl
    return select_impl(config.max_len, config.mini_batch_size, config.inner)[0]


def split(
    config: ModelConfig,
    num_items: int,
    seeds_R: ArrayLike,
    initializer_ranges_R: ArrayLike,
    w0_ranges_R: ArrayLike,
    training: TrainingClicks | None = None,
) -> tuple[nnx.GraphDef, dict]:
    """Return (graphdef, parameters stacked over R runs) of the model; training as in `build`.

    `nnx.merge(graphdef, one run's parameters)` inside a pure function restores the model. The
    parameters are drawn by one compiled program, because dispatching hundreds of small ones takes
    seconds.
    """

    def parameters(seed, initializer_range, w0_range):
        ranges = Ranges(initializer_range, w0_range)
        model = build(config, num_items, seed, ranges, training)
        return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])

    shapes = nnx.eval_shape(lambda: build(config, num_items, 0, training=training))
    graphdef, _ = nnx.split(shapes, nnx.Param)
    return graphdef, jax.jit(jax.vmap(parameters))(seeds_R, initializer_ranges_R, w0_ranges_R)
