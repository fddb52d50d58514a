"""The optimizer and the learning-rate schedule that the training settings name.

`sparse_rows` makes a training step lazy. The rows of a batch's items are gathered from the table,
and from whatever the optimizer keeps beside it, the ordinary step runs on them as if they were the
whole catalogue, and they are written back. A row of the batch moves exactly as dense Adam would
move it from the same moments. What differs from dense Adam:
- a row that the batch does not hold stays as it is, to the bit: its moments do not decay, and it is
  not moved by them;
- bias correction counts the steps of the run, not those of the row;
- weight decay (AdamW) reaches a row only in steps that hold it.
If every batch held every row, nothing would differ.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from data_prep.settings import UserError
from ttt4rec_jax.config import TrainConfig
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.parallel.sharding import TABLE, is_table


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Return Adam (Kingma and Ba 2015, arXiv:1412.6980), or AdamW; clip the gradient if asked.

    Without the learning rate, which is in the training state, so that runs that differ in it share
    a program.
    """
    parts = [optax.scale_by_adam(b2=config.adam_b2)]
    if config.clip_norm:
        parts.insert(0, optax.stateless(lambda gradient, _: clipped(gradient, config.clip_norm)))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def cosine_schedule(steps: int) -> optax.Schedule:
    """Return the factor of the learning rate by step, from 1 to 0.

    Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    return optax.cosine_decay_schedule(1.0, steps)


def clipped(gradient: Any, max_norm: float) -> Any:
    """Return the gradient, scaled down to a norm of max_norm if it exceeds that.

    Pascanu et al. 2013, arXiv:1211.5063. NaN if its norm overflows, unlike
    optax.clip_by_global_norm: scaling by an infinite norm would give zeros, and the model would
    silently stop learning.
    """
    norm = optax.tree.norm(gradient)
    factor = jnp.where(jnp.isfinite(norm), max_norm / jnp.maximum(norm, max_norm), jnp.nan)
    return jax.tree.map(lambda x: x * factor, gradient)


class Rows(NamedTuple):
    """The item ids of a batch [R], ascending, with 0 and repeats; the first of each is written."""

    items: jax.Array
    is_first: jax.Array


def rows_of(batch: Batch) -> tuple[Rows, Batch]:
    """Return the rows that a batch looks up, and the batch with items replaced by row indices.

    Item 0 stays 0. Repeats are kept, since removing them would take a second sort; they get no
    gradient.
    """
    ids = batch.history, batch.target, batch.negatives
    items = jnp.sort(jnp.concatenate([jnp.zeros(1, jnp.int32), *(x.reshape(-1) for x in ids)]))
    is_first = jnp.concatenate([jnp.ones(1, bool), items[1:] != items[:-1]])
    history, target, negatives = (jnp.searchsorted(items, x).astype(jnp.int32) for x in ids)
    local = batch._replace(history=history, target=target, negatives=negatives)
    return Rows(items, is_first), local


def take_rows(state: Any, rows: Rows) -> Any:
    """Return the state with its item tables reduced to some rows."""

    def take(path: Any, x: jax.Array) -> jax.Array:
        return x.at[rows.items].get(mode="promise_in_bounds") if is_table(path) else x

    return jax.tree.map_with_path(take, state)


def put_rows(state: Any, small: Any, rows: Rows) -> Any:
    """Return `small` with its item tables written into those of `state` (in place, if donated)."""

    def put(path: Any, whole: jax.Array, part: jax.Array) -> jax.Array:
        if not is_table(path):
            return part
        # repeats are sent beyond the end and dropped
        beyond_R = len(whole) + jnp.arange(len(rows.items))
        row_R = jnp.where(rows.is_first, rows.items, beyond_R)
        return whole.at[row_R].set(part, mode="drop", unique_indices=True)

    return jax.tree.map_with_path(put, state, small)


def sparse_rows(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the training step that touches only the item rows of its batch.

    Its cost does not depend on the catalogue. Same signature and same state as `train_step`, for
    any element-wise optimizer. The model must use item ids only to look them up in its table and to
    compare them with each other and with 0.
    """

    def step(state: Any, batch: Batch, key: jax.Array) -> tuple[Any, jax.Array]:
        if TABLE not in state.params:
            raise UserError(
                f"--sparse_embeddings: the model has no item table {TABLE!r}; leave this flag out"
            )
        rows, local = rows_of(batch)
        small, loss = train_step(take_rows(state, rows), local, key)
        return put_rows(state, small, rows), loss

    return step
