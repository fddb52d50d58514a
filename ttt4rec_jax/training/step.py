"""One step of training as a pure function, and many of them in one dispatch."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data.batches import ALL, Batch, Bucket, Clicks, Examples, make_batch
from ttt4rec_jax.parallel.sharding import ONE_DEVICE, pad_to
from ttt4rec_jax.training import losses
from ttt4rec_jax.training.optim import sparse_rows


class TrainState(NamedTuple):
    """What a step takes and gives back."""

    params: dict
    opt_state: optax.OptState
    learning_rate: jax.Array
    context: Any = ()  # what the model learns beside its parameters, once an epoch (learn_context)


class EpochSums(NamedTuple):
    """What an epoch adds up: losses, and the first step [of the epoch] whose loss was not finite, -1 if none.

    With on_nan=skip such steps are counted instead, and add no loss.
    """

    loss: jax.Array
    bad_step: jax.Array
    skipped: Any = ()


def new_sums(config: Config, *axes: int) -> EpochSums:
    """The sums at the start of an epoch; with leading axes for stacked runs."""
    skipped = jnp.zeros(axes, jnp.int32) if config.train.on_nan == "skip" else ()
    return EpochSums(jnp.zeros(axes), jnp.full(axes, -1, jnp.int32), skipped)


def add_step(sums: EpochSums, loss, step, config: Config) -> EpochSums:
    """The sums with one more step."""
    if config.train.on_nan == "skip":
        is_finite = jnp.isfinite(loss)
        return sums._replace(
            loss=sums.loss + jnp.where(is_finite, loss, 0), skipped=sums.skipped + ~is_finite
        )
    first_bad = (sums.bad_step < 0) & ~jnp.isfinite(loss)
    return sums._replace(loss=sums.loss + loss, bad_step=jnp.where(first_bad, step, sums.bad_step))


def batch_scores(model, batch: Batch, config: Config, key):
    """(user vectors, None of a model without; scores of the targets [...]; of their negatives [..., K])."""
    if not MODELS[config.model.model].separable:
        negatives = jnp.broadcast_to(
            batch.negatives, (len(batch.target), batch.negatives.shape[-1])
        )
        candidates = jnp.concatenate([batch.target[:, None], negatives], 1)
        score = model.score(batch.history, batch.length, candidates, key)
        return None, score[:, 0], score[:, 1:]
    interests = model.encode(
        batch.history, batch.length, every=config.train.targets != "last", key=key
    )
    target = model.item_vectors(batch.target)
    users = models.nearest_interest(interests, target)
    negatives = jnp.einsum("...D,...KD->...K", users, model.item_vectors(batch.negatives))
    return users, (users * target).sum(-1), negatives


def batch_loss(model, batch: Batch, config: Config, num_items: int, context, key):
    """The mean loss over a batch's targets, and what the model adds to it."""
    model_key, own_key = (None, key) if config.model.dropout == 0 else jax.random.split(key)
    users, positive, negatives = batch_scores(model, batch, config, model_key)
    # a user who has clicked every item has no negatives: padding stands in their place and adds
    # nothing to the loss
    negatives = jnp.where(batch.negatives > 0, negatives, -jnp.inf)
    if config.train.loss == "softmax":
        # the table as it lies: to look up all of its rows would gather it on every device
        loss = losses.softmax(
            users @ model.vectors_of(model.embedding[...]).T, batch.target, num_items
        )
    else:
        if config.train.loss == "bce":
            loss = losses.bce(positive, negatives)
        elif config.train.loss == "gbce":
            loss = losses.gbce(positive, negatives, num_items, config.train.gbce_t)
        else:
            loss = losses.sampled_softmax(
                positive, batch.target, negatives, batch.negatives, num_items
            )
    mean = jnp.where(batch.weight > 0, loss * batch.weight, 0).sum() / jnp.maximum(
        batch.weight.sum(), 1
    )
    return mean + model.own_loss(batch, context, own_key) if hasattr(model, "own_loss") else mean


def cosine(step, steps: int):
    """What a learning rate is multiplied by at a step of `steps`: from 1 to 0 (Loshchilov, Hutter 2017, arXiv:1608.03983)."""
    return (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1))) / 2


def unless_finite(before: TrainState, after: TrainState, loss):
    """(after, loss), or (before, NaN) if anything of the step is not finite.

    Judged by what it leaves: a gradient that is finite may still overflow in Adam's squares, which
    would freeze its parameter.
    """
    outcome = jax.tree.leaves((loss, after.params, after.opt_state))
    is_finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x).all() for x in outcome))
    state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, before)
    return state, jnp.where(is_finite, loss, jnp.nan)


def make_train_step(
    graphdef, tx: optax.GradientTransformation, config: Config, num_items: int, steps: int = 0
):
    """`train_step(state, batch, key) -> (state, loss)`, pure; jit is put on outside. steps: of the run, for schedule=cosine.

    With on_nan=skip a step that is not finite gives the state back as it was, and NaN as its loss.
    """

    def train_step(state: TrainState, batch: Batch, key):
        def loss_of(params):
            return batch_loss(
                nnx.merge(graphdef, params), batch, config, num_items, state.context, key
            )

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        directions, opt_state = tx.update(grads, state.opt_state, state.params)
        rate = state.learning_rate
        if config.train.schedule == "cosine":
            rate = rate * cosine(optax.tree.get(state.opt_state, "count"), steps)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, directions)
        if config.train.on_nan == "skip":
            return unless_finite(state, state._replace(params=params, opt_state=opt_state), loss)
        return state._replace(params=params, opt_state=opt_state), loss

    return sparse_rows(train_step) if config.train.sparse_embeddings else train_step


def draw_batch(
    clicks: Clicks,
    examples: Examples,
    order_SxB,
    key,
    step,
    bucket: Bucket,
    config,
    num_items,
    mesh,
    rows=ALL,
):
    """(batch, the model's key) of a step. rows: which part of the batch is made (data.make_batch)."""
    batch_key, model_key = jax.random.split(jax.random.fold_in(key, step))
    order_B = pad_to(order_SxB[step, : bucket.batch_size], mesh.data, len(examples.ends))
    return make_batch(
        clicks, examples, order_B, batch_key, config, num_items, bucket.length, rows
    ), model_key


def make_run_steps(
    train_step, config: Config, num_items: int, buckets: tuple[Bucket, ...], mesh=ONE_DEVICE
):
    """`run_steps(state, sums, clicks, examples, of_S, order_SxB, key, first, stop) -> (state, sums)`.

    Steps first..stop-1 of an epoch: of and order are data.step_buckets, data.epoch_order; the key
    is the epoch's. The bounds
    are values, not shapes: one compilation serves all. Each bucket's step is compiled for its own
    history length.
    """

    def run_steps(
        state: TrainState,
        sums: EpochSums,
        clicks: Clicks,
        examples: Examples,
        of_S,
        order_SxB,
        key,
        first,
        stop,
    ):
        def one(state, step, bucket):
            batch, model_key = draw_batch(
                clicks, examples, order_SxB, key, step, bucket, config, num_items, mesh
            )
            negatives = (
                batch.negatives if batch.negatives.ndim == 1 else mesh.batch(batch.negatives)
            )  # or shared by all
            return train_step(state, Batch(*mesh.batch(batch[:-1]), negatives), model_key)

        def body(step, carry):
            state, sums = carry
            done = state, jnp.zeros(())
            for index, bucket in enumerate(buckets):
                # a loop of one turn or none: it updates its carry in place, where lax.switch copies
                # the item tables

                def turn(_, done, bucket=bucket):
                    return one(done[0], step, bucket)

                done = jax.lax.fori_loop(0, (of_S[step] == index).astype(jnp.int32), turn, done)
            state, loss = done
            return state, add_step(sums, loss, step, config)

        return jax.lax.fori_loop(first, stop, body, (state, sums))

    return run_steps


def over_runs(function, runs: int, shared: bool, in_turn: bool = False):
    """`function(carry, drawn, known) -> carry` for runs stacked along the first axis of carry, and of drawn unless shared.

    A shared `drawn` has one entry. Runs go side by side by vmap; or in turn, for a device that one
    run keeps busy, whose cache holds one run's parameters but not many runs'.
    """

    def of_one(carry, drawn, known):
        first = jax.tree.map(lambda x: x[0], (carry, drawn))
        return jax.tree.map(lambda x: x[None], function(*first, known))

    def side_by_side(carry, drawn, known):
        drawn, axis = (jax.tree.map(lambda x: x[0], drawn), None) if shared else (drawn, 0)
        return jax.vmap(function, (0, axis, None))(carry, drawn, known)

    def one_by_one(carry, drawn, known):
        def turn(r, carry):  # in place: lax.map would hold all runs twice
            own = jax.tree.map(lambda x: x[0 if shared else r], drawn)
            after = function(jax.tree.map(lambda x: x[r], carry), own, known)
            return jax.tree.map(lambda x, new: x.at[r].set(new), carry, after)

        return jax.lax.fori_loop(0, runs, turn, carry)

    return of_one if runs == 1 else one_by_one if in_turn else side_by_side


def stacked(run_steps, runs: int, shared: bool, in_turn: bool = False):
    """run_steps for stacked runs: state and sums of each, order and key of each or shared. See over_runs."""

    def of_one(carry, drawn, known):
        return run_steps(*carry, *known[:3], *drawn, *known[3:])

    of_all = over_runs(of_one, runs, shared, in_turn)

    def of_runs(state, sums, clicks, examples, of, order, key, first, stop):
        return of_all((state, sums), (order, key), (clicks, examples, of, first, stop))

    return of_runs
