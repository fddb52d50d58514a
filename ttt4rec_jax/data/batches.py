"""Training batches: each one a function of (seed, epoch, step)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ttt4rec_jax.config import Config, ModelConfig
from ttt4rec_jax.data.clicks import Clicks, histories, windows
from ttt4rec_jax.data.examples import Examples
from ttt4rec_jax.data.popularity import log_uniform_negatives

ALL = slice(None)  # rows of a batch


class Batch(NamedTuple):
    """A training batch.

    history [B, L] and its length [B]; targets and their weight, [B] or [B, L]; negatives [..., K],
    or [K] if the batch shares them. With masked training the history holds the mask,
    num_items + 1, in the place of a masked item. log_expected [K]: of shared negatives that are not
    uniform, the logarithm of each one's expected number among the K; () for others.
    """

    history: jax.Array
    length: jax.Array
    target: jax.Array
    weight: jax.Array
    negatives: jax.Array
    log_expected: Any = ()


def sample_negatives(
    key: jax.Array,
    clicks: Clicks,
    users: jax.Array,
    shape: tuple[int, ...],
    num_items: int,
    rows: slice = ALL,
) -> jax.Array:
    """Sample items uniformly from those outside a user's training clicks, without rejection.

    The r-th item outside a sorted set is r plus the number of members before it, found by
    bisection. users: indices that broadcast to the rows of `shape`. Held-out items may be sampled,
    since avoiding them would leak them. A user whose training clicks cover the whole catalogue has
    no negatives: the result is 0, padding.
    """
    free = num_free(clicks, users, num_items)
    limit = free
    if rows != ALL:
        # sample for the whole batch, so that a part has the values that it has in the whole
        limit = jnp.ones((shape[0], *free.shape[1:]), free.dtype).at[rows].set(free)
    rank = jax.random.randint(key, shape, 0, limit)[rows]
    return items_outside(clicks, users, rank, num_items)


def fixed_negatives(
    seed: int,
    clicks: Clicks,
    example_B: jax.Array,
    users: jax.Array,
    shape: tuple[int, ...],
    num_items: int,
) -> jax.Array:
    """Sample as sample_negatives does, but from (seed, example) alone: the same in each epoch."""
    free = num_free(clicks, users, num_items)

    def rank(example: jax.Array, limit: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), example)
        return jax.random.randint(key, shape[1:], 0, limit)

    return items_outside(clicks, users, jax.vmap(rank)(example_B, free), num_items)


def num_free(clicks: Clicks, users: jax.Array, num_items: int) -> jax.Array:
    """Return how many items are outside each user's training clicks."""
    return num_items - (clicks.gap_starts[users + 1] - clicks.gap_starts[users])


def items_outside(clicks: Clicks, users: jax.Array, rank: jax.Array, num_items: int) -> jax.Array:
    """Return the items of some ranks, from 0, among those outside users' training clicks.

    0, padding, for a user who has clicked all items.
    """
    first = clicks.gap_starts[users]
    stop = clicks.gap_starts[users + 1]
    free = num_items - (stop - first)
    low = jnp.broadcast_to(first, rank.shape)
    high = jnp.broadcast_to(stop, rank.shape)
    for _ in range(num_items.bit_length()):
        middle = (low + high) // 2
        is_before = (low < high) & (clicks.gaps[middle] <= rank)
        low = jnp.where(is_before, middle + 1, low)
        high = jnp.where(is_before, high, middle)
    return jnp.where(free > 0, rank + (low - first) + 1, 0)


def masked_positions(
    key: jax.Array,
    length_B: jax.Array,
    max_len: int,
    model: ModelConfig,
    batch_size: int,
    rows: slice = ALL,
) -> jax.Array:
    """Return which positions are masked [B, L] in masked training.

    Each position is masked with mask_probability; with mask_last_probability, a row has only its
    last position masked instead, as has a row in which no position was chosen. rows: which part of
    a batch of batch_size to make.
    """
    position_L = jnp.arange(max_len)
    is_last_BxL = position_L == length_B[:, None] - 1
    each_key, row_key = jax.random.split(key)
    shape = (batch_size, max_len)
    masked_BxL = jax.random.bernoulli(each_key, model.mask_probability, shape)[rows]
    masked_BxL &= position_L < length_B[:, None]
    last_only_B = jax.random.bernoulli(row_key, model.mask_last_probability, (batch_size,))[rows]
    last_only_B |= ~masked_BxL.any(1)
    return jnp.where(last_only_B[:, None], is_last_BxL, masked_BxL)


class Rows(NamedTuple):
    """The examples of a batch: last targets, users, numbers of targets, and which are real."""

    end_B: jax.Array
    user_B: jax.Array
    count_B: jax.Array
    is_real_B: jax.Array


class TrainingTargets(NamedTuple):
    """A batch without its negatives (see Batch), and the user of each target to sample them for."""

    history: jax.Array
    length: jax.Array
    target: jax.Array
    weight: jax.Array
    user: jax.Array


def last_click(clicks: Clicks, batch: Rows, length: int) -> TrainingTargets:
    """Return targets="last": the target of each example is the click after its history."""
    history, history_length = histories(clicks, batch.end_B, batch.user_B, length)
    target_B = clicks.items[batch.end_B]
    return TrainingTargets(history, history_length, target_B, batch.is_real_B, batch.user_B)


def every_click(clicks: Clicks, batch: Rows, length: int) -> TrainingTargets:
    """Return targets="every": the target of each position is the click after it."""
    first_B = batch.end_B - batch.count_B
    history = windows(clicks.read, first_B, batch.end_B, length)
    target_BxL = windows(clicks.items, first_B + 1, batch.end_B + 1, length)
    weight_BxL = batch.is_real_B[:, None] & (target_BxL > 0)
    return TrainingTargets(history, batch.count_B, target_BxL, weight_BxL, batch.user_B[:, None])


def masked_clicks(
    clicks: Clicks, batch: Rows, length: int, masked: Callable, mask: int
) -> TrainingTargets:
    """Return targets="masked": the masked clicks. masked: lengths [B] -> which positions are."""
    target_BxL = windows(clicks.items, batch.end_B - batch.count_B, batch.end_B + 1, length + 1)
    length_B = batch.count_B + 1
    masked_BxL = masked(length_B)
    history = jnp.where(masked_BxL, mask, target_BxL)
    weight_BxL = batch.is_real_B[:, None] & masked_BxL
    return TrainingTargets(history, length_B, target_BxL, weight_BxL, batch.user_B[:, None])


def make_batch(
    clicks: Clicks,
    examples: Examples,
    order_B: jax.Array,
    key: jax.Array,
    config: Config,
    num_items: int,
    length: int,
    rows: slice = ALL,
) -> Batch:
    """Return the batch of the examples in order_B, padded to `length`.

    key: for negatives and masks. Weights are 0 where there is no target. rows: which part of the
    batch to make, bit for bit as in the whole batch; the clicks of other users are not read.
    """
    train = config.train
    batch_size = len(order_B)
    order_B = order_B[rows]
    example_B = jnp.minimum(order_B, len(examples.ends) - 1)
    batch = Rows(
        examples.ends[example_B],
        examples.users[example_B],
        examples.counts[example_B],
        order_B < len(examples.ends),
    )
    if train.targets == "last":
        targets = last_click(clicks, batch, length)
    elif train.targets == "every":
        targets = every_click(clicks, batch, length)
    else:
        key, mask_key = jax.random.split(key)

        def masked(length_B: jax.Array) -> jax.Array:
            sizes = length + 1, config.model, batch_size
            return masked_positions(mask_key, length_B, *sizes, rows)

        targets = masked_clicks(clicks, batch, length, masked, num_items + 1)
    shape = (batch_size, *targets.target.shape[1:], train.num_negatives)
    log_expected: Any = ()
    if train.loss == "softmax":
        negatives = jnp.zeros((0,), jnp.int32)
    elif train.training_negatives == "log_uniform":
        negatives, log_expected = log_uniform_negatives(key, examples.by_popularity, shape[-1])
    elif train.loss == "sampled_softmax":
        negatives = jax.random.randint(key, shape[-1:], 1, num_items + 1)
    elif train.fixed_negatives:
        seed = config.data.data_seed
        users = targets.user[..., None]
        negatives = fixed_negatives(seed, clicks, example_B, users, shape, num_items)
    else:
        users = targets.user[..., None]
        negatives = sample_negatives(key, clicks, users, shape, num_items, rows)
    weight = targets.weight.astype(jnp.float32)
    made = targets.history, targets.length, targets.target, weight
    return Batch(*made, negatives, log_expected)
