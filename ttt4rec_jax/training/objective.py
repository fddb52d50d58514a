"""The loss of a batch: scores of targets and negatives, the loss that --loss names, their mean."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.training import losses
from ttt4rec_jax.ttt.matmul import on_cpu

# Of a chunk of a softmax, see by_positions: rows on a CPU, logits elsewhere.
CHUNK_ROWS = 128
CHUNK_LOGITS = 2**26  # 256 MB


class Scores(NamedTuple):
    """Interests [..., I, D] that score, or None; scores of targets [...] and negatives [..., K].

    Where the batch shares its negatives, `negatives` is None and `vectors` [K, D] are those of the
    negatives: the loss computes their scores for some positions at a time.
    """

    users: Any
    positive: jax.Array
    negatives: Any
    vectors: Any = None


def batch_scores(model: Any, batch: Batch, config: Config, key: jax.Array | None) -> Scores:
    """Return the scores of a batch's targets and negatives. key: for dropout."""
    if not MODELS[config.model.model].is_two_tower:
        shape = (len(batch.target), batch.negatives.shape[-1])
        negatives = jnp.broadcast_to(batch.negatives, shape)
        candidates = jnp.concatenate([batch.target[:, None], negatives], 1)
        score = model.score(batch.history, batch.length, candidates, key)
        return Scores(None, score[:, 0], score[:, 1:])
    every = config.train.targets != "last"
    options = {"every": True} if every else {}  # which a model that is not causal need not take
    interests = model.encode(batch.history, batch.length, key=key, **options)
    if interests.ndim != batch.target.ndim + 2 or interests.shape[:-2] != batch.target.shape:
        raise UserError(
            f"--model={config.model.model}: encode(every={every}) returned user vectors of shape "
            f"{interests.shape}, expected {batch.target.shape} + (interests, width)"
        )
    target = model.item_vectors(batch.target)
    rule = models.rule_of(model, config.interest_rule)
    if rule == "nearest":
        interests = models.nearest_interest(interests, target)[..., None, :]
    vectors = model.item_vectors(batch.negatives)
    score = functools.partial(models.over_interests, interests, rule=rule)
    of_target = score(lambda u: (u * target).sum(-1))
    if batch.negatives.ndim == 1:
        return Scores(interests, of_target, None, vectors)
    of_negatives = score(lambda u: jnp.einsum("...D,...KD->...K", u, vectors))
    return Scores(interests, of_target, of_negatives)


def target_losses(
    model: Any, scores: Scores, batch: Batch, config: Config, num_items: int
) -> jax.Array:
    """Return the loss of each of a batch's targets [...], as --loss names it."""
    loss = config.train.loss
    rule = models.rule_of(model, config.interest_rule)
    if loss == "softmax":
        if isinstance(model, models.HasItemTable):
            # use the table itself: a look-up of all rows would gather it on every device
            vectors = model.vectors_of(model.embedding[...])
        else:
            vectors = model.item_vectors(jnp.arange(num_items + 1))

        def over_catalogue(users, target):
            logits = models.over_interests(users, lambda u: u @ vectors.T, rule)
            return losses.softmax(logits, target, num_items)

        return by_positions(over_catalogue, len(vectors), scores.users, batch.target)
    if loss == "sampled_softmax":

        def over_sample(target, positive, negatives):
            more = batch.negatives, num_items, batch.log_expected
            return losses.sampled_softmax(positive, target, negatives, *more)

        if scores.vectors is None:
            return over_sample(batch.target, scores.positive, scores.negatives)

        def of_users(users, target, positive):
            logits = models.over_interests(users, lambda u: u @ scores.vectors.T, rule)
            return over_sample(target, positive, logits)

        rows = scores.users, batch.target, scores.positive
        return by_positions(of_users, len(scores.vectors), *rows)
    # a user who has clicked every item has padding instead of negatives, which adds nothing
    negatives = jnp.where(batch.negatives > 0, scores.negatives, -jnp.inf)
    if loss == "gbce":
        return losses.gbce(scores.positive, negatives, num_items, config.train.gbce_t)
    return losses.bce(scores.positive, negatives)


def by_positions(
    loss: Callable[..., jax.Array],
    num_vectors: int,
    users: jax.Array,
    target: jax.Array,
    *more: jax.Array,
) -> jax.Array:
    """Return loss(users, target, *more), computed for some positions of all sequences at a time.

    The logits of all positions would fill the memory of an accelerator, and on a CPU they would
    not stay in its cache. The gradient computes a chunk's logits again, which still costs less.

    users: [B, L, I, D], target and more [B, L], or all without L. What fits into one chunk is
    computed as it is. num_vectors: the columns of the logits.
    """
    num_sequences, num_positions = target.shape if target.ndim == 2 else (len(target), 1)
    rows = CHUNK_ROWS if on_cpu() else CHUNK_LOGITS // num_vectors
    size = max(1, rows // num_sequences)
    if size >= num_positions:
        return loss(users, target, *more)
    num_chunks = -(-num_positions // size)

    def chunks(x):  # [B, L, ...] -> [chunk, B, positions, ...]
        missing = num_chunks * size - num_positions
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(num_sequences, num_chunks, size, *x.shape[2:]), 1, 0)

    of_chunk = jax.checkpoint(lambda args: loss(*args))
    losses_CxBxP = jax.lax.map(of_chunk, jax.tree.map(chunks, (users, target, *more)))
    return jnp.moveaxis(losses_CxBxP, 0, 1).reshape(num_sequences, -1)[:, :num_positions]


def batch_loss(
    model: Any, batch: Batch, config: Config, num_items: int, context: Any, key: jax.Array
) -> jax.Array:
    """Return the mean loss over a batch's targets, plus the model's auxiliary loss, if any."""
    model_key, own_key = (None, key) if config.model.dropout == 0 else jax.random.split(key)
    scores = batch_scores(model, batch, config, model_key)
    loss = target_losses(model, scores, batch, config, num_items)
    total = jnp.where(batch.weight > 0, loss * batch.weight, 0).sum()
    mean = total / jnp.maximum(batch.weight.sum(), 1)
    if isinstance(model, models.HasAuxiliaryLoss):
        return mean + model.auxiliary_loss(batch, context, own_key)
    return mean
