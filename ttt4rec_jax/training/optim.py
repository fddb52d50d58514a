"""The optimiser that the training settings name, for whole embedding tables or for the rows that a step looks up.

`sparse_rows` makes a training step lazy. The rows of a batch's items are taken out of the table and
of whatever the optimiser keeps beside it, the ordinary step runs on them as if they were the whole
catalogue, and they are put back. A row of the batch moves exactly as dense Adam would move it from
the same moments. What differs from dense Adam:
- a row that the batch does not hold stays as it is, to the bit: its moments do not decay, and it
does not coast on them;
- bias correction counts the steps of the run, not those of the row;
- weight decay (AdamW) reaches a row only in steps that hold it.
If every batch held every row, nothing would differ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from data_prep.settings import UserError
from ttt4rec_jax.config import TrainConfig
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.parallel.sharding import TABLE, is_table


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The direction of Adam (Kingma and Ba 2015, arXiv:1412.6980); AdamW if there is weight decay; of a clipped gradient.

    Without the learning rate, which a training state holds: runs that differ in it share a program.
    """
    parts = [optax.scale_by_adam(b2=config.adam_b2)]
    if config.clip_norm:
        parts.insert(0, optax.stateless(lambda gradient, _: clipped(gradient, config.clip_norm)))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def clipped(gradient, most: float):
    """The gradient, shortened to a norm of `most` if it is longer (Pascanu et al. 2013, arXiv:1211.5063).

    NaN if its norm overflows: to shorten that would give zeros, a model that stands still, and
    nobody would be told.
    """
    norm = optax.tree.norm(gradient)
    factor = jnp.where(jnp.isfinite(norm), most / jnp.maximum(norm, most), jnp.nan)
    return jax.tree.map(lambda x: x * factor, gradient)


class Rows(NamedTuple):
    """The item ids of a batch in ascending order, 0 among them, repeats included; only the first of equals is written."""

    items: jax.Array  # [R]
    is_first: jax.Array  # [R]


def rows_of(batch: Batch) -> tuple[Rows, Batch]:
    """The rows that a batch looks up, and the batch with each item named by its place among them; 0 stays 0.

    Repeats are kept, since leaving them out would take a second sort; they get no gradient.
    """
    ids = batch.history, batch.target, batch.negatives
    items = jnp.sort(jnp.concatenate([jnp.zeros(1, jnp.int32), *(x.reshape(-1) for x in ids)]))
    is_first = jnp.concatenate([jnp.ones(1, bool), items[1:] != items[:-1]])
    history, target, negatives = (jnp.searchsorted(items, x).astype(jnp.int32) for x in ids)
    return Rows(items, is_first), batch._replace(
        history=history, target=target, negatives=negatives
    )


def take_rows(state, rows: Rows):
    """The state with its item tables cut down to some rows."""
    return jax.tree.map_with_path(
        lambda path, x: x.at[rows.items].get(mode="promise_in_bounds") if is_table(path) else x,
        state,
    )


def put_rows(state, small, rows: Rows):
    """`small`, with its item tables written back into those of `state`: in place, where buffers are donated."""

    def put(path, whole, part):
        if not is_table(path):
            return part
        place_R = jnp.where(
            rows.is_first, rows.items, len(whole) + jnp.arange(len(rows.items))
        )  # beyond the end: dropped
        return whole.at[place_R].set(part, mode="drop", unique_indices=True)

    return jax.tree.map_with_path(put, state, small)


def sparse_rows(train_step):
    """The training step that touches only the item rows of its batch, at a cost that does not grow with the catalogue.

    Same signature and same state as `train_step`, any optimiser that works element by element. The
    model must use item ids only to look them up in its table and to compare them with each other
    and with 0.
    """

    def step(state, batch: Batch, key):
        if TABLE not in state.params:
            raise UserError(
                f"--sparse_embeddings: the model has no table {TABLE!r} of its items, leave it out"
            )
        rows, local = rows_of(batch)
        small, loss = train_step(take_rows(state, rows), local, key)
        return put_rows(state, small, rows), loss

    return step
