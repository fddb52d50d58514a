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


def build(config: ModelConfig, dataset: Dataset, seed: int) -> nnx.Module:
    """The model that config names, with initial parameters drawn from seed."""
    if config.model == "popularity":
        return Popularity(dataset)
    model = {"ttt4rec": Ttt4Rec, "sasrec": SasRec}[config.model]
    return model(config, dataset.num_items, nnx.Rngs(params=seed))


def split(config: ModelConfig, dataset: Dataset, seed: int) -> tuple[nnx.GraphDef, dict]:
    """(graphdef, parameters) of the model: `nnx.merge(graphdef, parameters)` inside a pure function is the model again.

    The parameters are drawn in one compiled program, since hundreds of small ones take seconds to dispatch.
    """
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(config, dataset, seed)), nnx.Param)
    return graphdef, jax.jit(lambda: nnx.to_pure_dict(nnx.split(build(config, dataset, seed), nnx.Param)[1]))()
