"""The recommenders, under one interface.

A model with a separable score encodes histories into user vectors, one for each of K interests (K =
1 for most), and items into item vectors; the score of an item is the best interest's product with
it:
    encode(history [B, L], length [B], every=False, key=None) -> [B, K, D], or [B, L, K, D] with
    every item_vectors(items [...]) -> [..., D]
A model whose score depends on the history and the candidate together gives it at once:
    score(history [B, L], length [B], candidates [B, C] or [C], key=None) -> [B, C]
History is padded with 0 at the right; `every` asks for the vectors at each position (causal and
masked training); a key turns dropout on. A model may add to the loss, from what it learns of all
training histories once an epoch:
    own_loss(batch, context, key) -> scalar
    learn_context(histories in groups (data.Histories), key) -> context, a tree of arrays;
    initial_context() -> one like it
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ttt4rec_jax.config import MODELS, ModelConfig
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.models.bert4rec import Bert4Rec
from ttt4rec_jax.models.comirec import ComiRecDr, ComiRecSa
from ttt4rec_jax.models.din import Din
from ttt4rec_jax.models.gru4rec import Gru4Rec
from ttt4rec_jax.models.iclrec import IclRec
from ttt4rec_jax.models.itemknn import ItemKnn
from ttt4rec_jax.models.popularity import Popularity
from ttt4rec_jax.models.sasrec import SasRec
from ttt4rec_jax.models.ttt4rec import Ttt4Rec
from ttt4rec_jax.ttt.chunked import pick
from ttt4rec_jax.ttt.layer import Ranges

TRAINED = {
    "sasrec": SasRec,
    "gru4rec": Gru4Rec,
    "din": Din,
    "comirec_sa": ComiRecSa,
    "comirec_dr": ComiRecDr,
    "bert4rec": Bert4Rec,
    "iclrec": IclRec,
}


def nearest_interest(interests, target):
    """The user vectors [..., D] whose product with the target's vector [..., D] is greatest among the interests [..., K, D]."""
    if interests.shape[-2] == 1:
        return interests[..., 0, :]
    best = jnp.einsum("...KD,...D->...K", interests, target).argmax(-1)
    return jnp.take_along_axis(interests, best[..., None, None], -2)[..., 0, :]


def build(config: ModelConfig, dataset: Dataset, seed, ranges: Ranges | None = None) -> nnx.Module:
    """The model that config names, with initial parameters drawn from seed; ranges stand in for config's, if given."""
    if not MODELS[config.model].trained:
        return {"popularity": Popularity, "itemknn": ItemKnn}[config.model](dataset)
    rngs = nnx.Rngs(params=jax.random.key(seed))
    if config.model == "ttt4rec":
        return Ttt4Rec(
            config,
            ranges or Ranges(config.initializer_range, config.w0_range),
            dataset.num_items,
            rngs,
        )
    return TRAINED[config.model](config, dataset.num_items, rngs)


def ttt_impl(config: ModelConfig) -> str:
    """How the model's TTT layers are evaluated, which --ttt_impl=auto leaves to their shape; "" for a model without any."""
    if config.model != "ttt4rec":
        return ""
    return (
        pick(config.max_len, config.mini_batch_size, config.inner)[0]
        if config.ttt_impl == "auto"
        else config.ttt_impl
    )


def split(
    config: ModelConfig, dataset: Dataset, seeds_R, initializer_ranges_R, w0_ranges_R
) -> tuple[nnx.GraphDef, dict]:
    """(graphdef, parameters stacked over R runs) of the model.

    `nnx.merge(graphdef, one run's parameters)` inside a pure function is the model again. The
    parameters are drawn in one compiled program, since hundreds of small ones take seconds to
    dispatch.
    """

    def parameters(seed, initializer_range, w0_range):
        model = build(config, dataset, seed, Ranges(initializer_range, w0_range))
        return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])

    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(config, dataset, 0)), nnx.Param)
    return graphdef, jax.jit(jax.vmap(parameters))(seeds_R, initializer_ranges_R, w0_ranges_R)
