"""One step of training as a pure function, and many of them in one dispatch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ttt4rec_jax import losses
from ttt4rec_jax.config import Config
from ttt4rec_jax.data import Batch, Bucket, Clicks, Examples, make_batch
from ttt4rec_jax.optim import sparse_rows


class TrainState(NamedTuple):
    """What a step changes. `step` counts from the start of the run."""

    params: dict
    opt_state: optax.OptState
    step: jax.Array


class EpochSums(NamedTuple):
    """What an epoch adds up: losses, and the first step [of the epoch] whose loss was not finite, -1 if none."""

    loss: jax.Array
    bad_step: jax.Array


def new_sums() -> EpochSums:
    """The sums at the start of an epoch."""
    return EpochSums(jnp.zeros(()), jnp.full((), -1, jnp.int32))


def batch_loss(model, batch: Batch, config: Config, num_items: int, key):
    """The mean loss over a batch's targets."""
    users = model.encode(batch.history, batch.length, every=config.train.targets == "every", key=key)
    if config.train.loss == "softmax":
        item_vectors_VxD = model.item_vectors(jnp.arange(num_items + 1))
        loss = losses.softmax(users @ item_vectors_VxD.T, batch.target)
    else:
        positive = (users * model.item_vectors(batch.target)).sum(-1)
        negatives = jnp.einsum("...D,...KD->...K", users, model.item_vectors(batch.negatives))
        if config.train.loss == "bce":
            loss = losses.bce(positive, negatives)
        elif config.train.loss == "gbce":
            loss = losses.gbce(positive, negatives, num_items, config.train.gbce_t)
        else:
            loss = losses.sampled_softmax(positive, batch.target, negatives, batch.negatives, num_items)
    return jnp.where(batch.weight > 0, loss * batch.weight, 0).sum() / jnp.maximum(batch.weight.sum(), 1)


def make_train_step(graphdef, tx: optax.GradientTransformation, config: Config, num_items: int):
    """`train_step(state, batch, key) -> (state, loss)`, pure; jit is put on outside."""

    def train_step(state: TrainState, batch: Batch, key):
        dropout_key = key if config.model.dropout > 0 else None

        def loss_of(params):
            return batch_loss(nnx.merge(graphdef, params), batch, config, num_items, dropout_key)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1), loss

    return sparse_rows(train_step) if config.train.sparse_embeddings else train_step


def make_run_steps(train_step, config: Config, num_items: int, buckets: tuple[Bucket, ...]):
    """`run_steps(state, sums, clicks, examples, order, key, first, stop) -> (state, sums)`.

    Steps first..stop-1 of an epoch whose order is given (data.epoch_order). The bounds are values, not shapes: one
    compilation serves all. Each bucket's step is compiled for its own history length.
    """

    def run_steps(state: TrainState, sums: EpochSums, clicks: Clicks, examples: Examples, order, key, first, stop):
        def step_of_length(length):
            def one(state, order_B):
                batch_key, model_key = jax.random.split(jax.random.fold_in(key, state.step))
                batch = make_batch(clicks, examples, order_B, batch_key, config, num_items, length)
                return train_step(state, batch, model_key)

            return one

        steps = [step_of_length(bucket.length) for bucket in buckets]
        of, order_SxB = order

        def body(step, carry):
            state, sums = carry
            state, loss = jax.lax.switch(of[step], steps, state, order_SxB[step])
            first_bad = (sums.bad_step < 0) & ~jnp.isfinite(loss)
            return state, EpochSums(sums.loss + loss, jnp.where(first_bad, step, sums.bad_step))

        return jax.lax.fori_loop(first, stop, body, (state, sums))

    return run_steps
