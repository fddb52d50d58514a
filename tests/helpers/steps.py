"""Single training steps on a toy catalogue."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax import models
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.training.optim import optimizer
from ttt4rec_jax.training.step import TrainState, make_train_step

RATE = 0.1
DECAY = 0.05
NUM_TOY_ITEMS = 9


def batch_of(history, target, negatives):
    history, target, negatives = (jnp.asarray(x, jnp.int32) for x in (history, target, negatives))
    return Batch(history, (history > 0).sum(1), target, jnp.ones(target.shape), negatives)


def random_batch(rng, size, items, length=4):
    """Histories of different lengths, targets and negatives among the given items."""
    histories = rng.choice(items, (size, length)) * (
        np.arange(length) < rng.integers(1, length + 1, (size, 1))
    )
    return batch_of(histories, rng.choice(items, size), rng.choice(items, (size, 3)))


def state_of(tx, params):
    return TrainState(params, tx.init(params), jnp.asarray(RATE))


def toy_step(tx):
    """A train step whose loss is quadratic in what is looked up, with a known gradient."""

    def step(state, batch, key):
        def loss_of(params):
            used = jnp.concatenate(
                [batch.history.reshape(-1), batch.target.reshape(-1), batch.negatives.reshape(-1)]
            )
            return (
                0.5 * (jnp.square(params["embedding"][used]).sum(-1) * (used > 0)).sum()
                + params["bias"]
            )

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        directions, opt_state = tx.update(grads, state.opt_state, state.params)
        return TrainState(
            jax.tree.map(lambda p, d: p - RATE * d, state.params, directions),
            opt_state,
            state.learning_rate,
        ), loss

    return step


@functools.cache
def steps_of(model: str, **train):
    """The training step, dense and with --sparse_embeddings, and the first state."""
    shape = (
        {"dim": 8, "max_len": 4, "mini_batch_size": 2}
        if model == "ttt4rec"
        else {"dim": 8, "max_len": 4}
    )
    config = ModelConfig(model=model, **shape)
    graphdef, params = models.split(
        config, NUM_TOY_ITEMS, np.zeros(1, np.uint32), *np.full((2, 1), 0.3, np.float32)
    )
    params = jax.tree.map(lambda x: x[0], params)
    found = []
    for sparse in (False, True):
        settings = Config(model=config, train=TrainConfig(sparse_embeddings=sparse, **train))
        tx = optimizer(settings.train)
        found.append(jax.jit(make_train_step(graphdef, tx, settings, NUM_TOY_ITEMS)))
    return *found, state_of(tx, params)._replace(learning_rate=jnp.asarray(0.01))
