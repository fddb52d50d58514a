"""One step of training as a pure function, and many steps in one dispatch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ttt4rec_jax.config import Config
from ttt4rec_jax.data.batches import ALL, Batch, make_batch
from ttt4rec_jax.data.clicks import Clicks
from ttt4rec_jax.data.examples import Bucket, Examples
from ttt4rec_jax.parallel.sharding import ONE_DEVICE, Mesh, pad_to
from ttt4rec_jax.training.objective import batch_loss
from ttt4rec_jax.training.optim import cosine_schedule, sparse_rows
from ttt4rec_jax.training.precision import products


class TrainState(NamedTuple):
    """The state that a step updates. context: what the model learns from all histories, if any."""

    params: Any
    opt_state: optax.OptState
    learning_rate: jax.Array
    context: Any = ()


class EpochSums(NamedTuple):
    """Sums over the steps of an epoch: the losses, and the first step with a non-finite loss or -1.

    With on_nan="skip", such steps are counted in `skipped` and not added to the loss.
    """

    loss: jax.Array
    bad_step: jax.Array
    skipped: Any = ()


TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, jax.Array]]
RunSteps = Callable[..., tuple[TrainState, EpochSums]]


def new_sums(config: Config, *axes: int) -> EpochSums:
    """Return the sums at the start of an epoch, with leading axes for stacked runs."""
    skipped = jnp.zeros(axes, jnp.int32) if config.train.on_nan == "skip" else ()
    return EpochSums(jnp.zeros(axes), jnp.full(axes, -1, jnp.int32), skipped)


def add_step(sums: EpochSums, loss: jax.Array, step: jax.Array, config: Config) -> EpochSums:
    """Return the sums with one more step."""
    is_finite = jnp.isfinite(loss)
    if config.train.on_nan == "skip":
        total = sums.loss + jnp.where(is_finite, loss, 0)
        return sums._replace(loss=total, skipped=sums.skipped + ~is_finite)
    is_first_bad = (sums.bad_step < 0) & ~is_finite
    bad_step = jnp.where(is_first_bad, step, sums.bad_step)
    return sums._replace(loss=sums.loss + loss, bad_step=bad_step)


def unless_finite(
    before: TrainState, after: TrainState, loss: jax.Array
) -> tuple[TrainState, jax.Array]:
    """Return (after, loss), or (before, NaN) if anything in the step's result is not finite.

    A finite gradient is not enough: it may overflow in Adam's squares, which would freeze its
    parameter.
    """
    results = jax.tree.leaves((loss, after.params, after.opt_state))
    is_finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x).all() for x in results))
    state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, before)
    return state, jnp.where(is_finite, loss, jnp.nan)


def make_train_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
    config: Config,
    num_items: int,
    steps: int = 0,
) -> TrainStep:
    """Return the pure `train_step(state, batch, key) -> (state, loss)`, to be jitted by the caller.

    steps: the steps of the whole run, for schedule="cosine". With on_nan="skip", a step that is not
    finite returns the state unchanged, and NaN as its loss.
    """

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            model = nnx.merge(graphdef, params)
            return batch_loss(model, batch, config, num_items, state.context, key)

        with products(config.train):
            loss, grads = jax.value_and_grad(loss_of)(state.params)
        directions, opt_state = tx.update(grads, state.opt_state, state.params)
        rate = state.learning_rate
        if config.train.schedule == "cosine":
            rate = rate * cosine_schedule(steps)(optax.tree.get(state.opt_state, "count"))
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, directions)
        after = state._replace(params=params, opt_state=opt_state)
        return unless_finite(state, after, loss) if config.train.on_nan == "skip" else (after, loss)

    return sparse_rows(train_step) if config.train.sparse_embeddings else train_step


def draw_batch(
    clicks: Clicks,
    examples: Examples,
    order_SxB: jax.Array,
    key: jax.Array,
    step: jax.Array,
    bucket: Bucket,
    config: Config,
    num_items: int,
    mesh: Mesh,
    rows: slice = ALL,
) -> tuple[Batch, jax.Array]:
    """Return a step's batch and the model's key. rows: the part to make (see make_batch)."""
    batch_key, model_key = jax.random.split(jax.random.fold_in(key, step))
    order_B = pad_to(order_SxB[step, : bucket.batch_size], mesh.data, len(examples.ends))
    batch = make_batch(clicks, examples, order_B, batch_key, config, num_items, bucket.length, rows)
    return batch, model_key


def make_run_steps(
    train_step: TrainStep,
    config: Config,
    num_items: int,
    buckets: tuple[Bucket, ...],
    mesh: Mesh = ONE_DEVICE,
) -> RunSteps:
    """Return the pure function that takes many steps.

    `run_steps(state, sums, clicks, examples, bucket_S, order_SxB, key, first, stop)` takes steps
    first..stop-1 of an epoch (see program.Epoch) and returns (state, sums). The bounds are values,
    not shapes, so that it is compiled once. The step of each bucket is compiled for the bucket's
    history length.
    """

    def run_steps(
        state: TrainState,
        sums: EpochSums,
        clicks: Clicks,
        examples: Examples,
        bucket_S: jax.Array,
        order_SxB: jax.Array,
        key: jax.Array,
        first: Any,
        stop: Any,
    ) -> tuple[TrainState, EpochSums]:
        def take(state, step, bucket):
            batch, model_key = draw_batch(
                clicks, examples, order_SxB, key, step, bucket, config, num_items, mesh
            )
            is_shared = batch.negatives.ndim == 1  # by all rows of the batch
            negatives = batch.negatives if is_shared else mesh.batch(batch.negatives)
            history, length, target, weight = mesh.batch(batch[:4])
            placed = Batch(history, length, target, weight, negatives, batch.log_expected)
            return train_step(state, placed, model_key)

        def body(step, carry):
            state, sums = carry
            result = state, jnp.zeros(())
            for index, bucket in enumerate(buckets):
                # A loop of one iteration or none updates its carry in place, whereas lax.switch
                # would copy the item tables. Its counter is always 0. Adding it to the step keeps
                # XLA from moving the work that depends on the step alone (batches, dropout) out of
                # the loop, where each step would do this work for every bucket.

                def iteration(counter, result, bucket=bucket):
                    return take(result[0], step + counter, bucket)

                is_taken = (bucket_S[step] == index).astype(jnp.int32)
                result = jax.lax.fori_loop(0, is_taken, iteration, result)
            state, loss = result
            return state, add_step(sums, loss, step, config)

        return jax.lax.fori_loop(first, stop, body, (state, sums))

    return run_steps


def over_runs(
    function: Callable[..., Any], runs: int, shared: bool, in_turn: bool = False
) -> Callable[..., Any]:
    """Return `function(carry, drawn, known) -> carry` for runs stacked along a first axis.

    carry and drawn have that axis. shared: `drawn` has a single entry for all runs. in_turn: the
    runs are computed one after another, for a device that one run keeps busy and whose cache holds
    the parameters of one run only; otherwise side by side, by vmap.
    """

    def of_one(carry, drawn, known):
        first = jax.tree.map(lambda x: x[0], (carry, drawn))
        return jax.tree.map(lambda x: x[None], function(*first, known))

    def side_by_side(carry, drawn, known):
        if shared:
            drawn = jax.tree.map(lambda x: x[0], drawn)
        return jax.vmap(function, (0, None if shared else 0, None))(carry, drawn, known)

    def one_by_one(carry, drawn, known):
        def turn(r, carry):  # in place: lax.map would hold all runs twice
            own = jax.tree.map(lambda x: x[0 if shared else r], drawn)
            after = function(jax.tree.map(lambda x: x[r], carry), own, known)
            return jax.tree.map(lambda x, new: x.at[r].set(new), carry, after)

        return jax.lax.fori_loop(0, runs, turn, carry)

    if runs == 1:
        return of_one
    return one_by_one if in_turn else side_by_side


def stacked(run_steps: RunSteps, runs: int, shared: bool, in_turn: bool = False) -> RunSteps:
    """Return run_steps for stacked runs, of their states, sums, orders and keys.

    shared, in_turn: see over_runs.
    """

    def of_one(carry, drawn, known):
        return run_steps(*carry, *known[:3], *drawn, *known[3:])

    of_all = over_runs(of_one, runs, shared, in_turn)

    def of_runs(state, sums, clicks, examples, bucket_S, order, key, first, stop):
        return of_all((state, sums), (order, key), (clicks, examples, bucket_S, first, stop))

    return of_runs
