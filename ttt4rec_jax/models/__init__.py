"""The recommenders, under one interface.

A model encodes histories into user vectors and items into item vectors; a score is their dot product:
    encode(history [B, L], length [B], every=False, key=None) -> [B, D], or [B, L, D] with every
    item_vectors(items [...]) -> [..., D]
History is padded with 0 at the right; `every` asks for the vector at each position (causal models); a key turns
dropout on.
"""

import jax
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data import Dataset
from ttt4rec_jax.models.popularity import Popularity
from ttt4rec_jax.models.sasrec import SasRec
from ttt4rec_jax.models.ttt4rec import Ttt4Rec
from ttt4rec_jax.ttt.chunked import pick
from ttt4rec_jax.ttt.layer import Ranges


def build(config: ModelConfig, dataset: Dataset, seed, ranges: Ranges | None = None) -> nnx.Module:
    """The model that config names, with initial parameters drawn from seed; ranges stand in for config's, if given."""
    if config.model == "popularity":
        return Popularity(dataset)
    rngs = nnx.Rngs(params=jax.random.key(seed))
    if config.model == "sasrec":
        return SasRec(config, dataset.num_items, rngs)
    return Ttt4Rec(config, ranges or Ranges(config.initializer_range, config.w0_range), dataset.num_items, rngs)


def ttt_impl(config: ModelConfig) -> str:
    """How the model's TTT layers are evaluated, which --ttt_impl=auto leaves to their shape; "" for a model without any."""
    if config.model != "ttt4rec":
        return ""
    return pick(config.max_len, config.mini_batch_size, config.inner)[0] if config.ttt_impl == "auto" else config.ttt_impl


def split(config: ModelConfig, dataset: Dataset, seeds_R, initializer_ranges_R, w0_ranges_R) -> tuple[nnx.GraphDef, dict]:
    """(graphdef, parameters stacked over R runs) of the model.

    `nnx.merge(graphdef, one run's parameters)` inside a pure function is the model again. The parameters are drawn in one
    compiled program, since hundreds of small ones take seconds to dispatch.
    """

    def parameters(seed, initializer_range, w0_range):
        model = build(config, dataset, seed, Ranges(initializer_range, w0_range))
        return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])

    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(config, dataset, 0)), nnx.Param)
    return graphdef, jax.jit(jax.vmap(parameters))(seeds_R, initializer_ranges_R, w0_ranges_R)
