"""The optimizer and the learning-rate schedule that the training settings name.

`sparse_rows` makes a training step lazy: it gathers the rows of a batch's items from the table and
from the optimizer's arrays of the same shape, runs the ordinary step on them as if they were the
whole catalogue, and writes them back. A row in the batch is updated exactly as by dense Adam with
the same moments. What differs from dense Adam:
- a row that is not in the batch does not change in any bit: its moments do not decay, and they do
  not move it;
- bias correction counts the steps of the run, not those of the row;
- weight decay (AdamW) applies to a row only in steps whose batch contains it.
If every batch contained every row, the two would be equal.
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
    """Return Adam (Kingma and Ba 2015, arXiv:1412.6980) or AdamW, with gradient clipping if set.

    The learning rate is not part of it but of the training state, so that runs that differ in it
    share a program.
    """
    parts = [optax.scale_by_adam(b2=config.adam_b2)]
    if config.clip_norm:
        parts.insert(0, optax.stateless(lambda gradient, _: clipped(gradient, config.clip_norm)))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def cosine_schedule(steps: int) -> optax.Schedule:
    """Return the factor of the learning rate as a function of the step, from 1 to 0.

    Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    return optax.cosine_decay_schedule(1.0, steps)


def clipped(gradient: Any, max_norm: float) -> Any:
    """Return the gradient, scaled down to norm max_norm if its norm is greater.

    Pascanu et al. 2013, arXiv:1211.5063. NaN if its norm overflows, unlike
    optax.clip_by_global_norm: scaling by an infinite norm would give zeros, and the model would
    silently stop learning.
    """
    norm = optax.tree.norm(gradient)
    factor = jnp.where(jnp.isfinite(norm), max_norm / jnp.maximum(norm, max_norm), jnp.nan)
    return jax.tree.map(lambda x: x * factor, gradient)


class Rows(NamedTuple):
    """The item ids of a batch [R], ascending, with 0 and duplicates.

    is_first marks the first of equal ids, the one that is written back.
    """

    items: jax.Array
    is_first: jax.Array


def rows_of(batch: Batch) -> tuple[Rows, Batch]:
    """Return the rows that a batch looks up, and the batch with items replaced by row indices.

    Item 0 stays 0. Duplicates are kept, since removing them would take a second sort; they receive
    no gradient.
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
        # duplicates get an index beyond the end, which is dropped
        beyond_R = len(whole) + jnp.arange(len(rows.items))
        row_R = jnp.where(rows.is_first, rows.items, beyond_R)
        return whole.at[row_R].set(part, mode="drop", unique_indices=True)

    return jax.tree.map_with_path(put, state, small)


def sparse_rows(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the training step that reads and writes only the item rows of its batch.

    Its cost does not depend on the size of the catalogue. It has the signature and the state of
    `train_step`, and supports any element-wise optimizer. The model may use item ids only to look
    them up in its table and to compare them with each other and with 0.
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
