"""What a training step or an evaluation reads of the data set. A batch is a pure function of (seed, epoch, step), in jit."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.data.dataset import Dataset

ALL = slice(None)  # rows of a batch


class Clicks(NamedTuple):
    """What training and evaluation read of the data set, on a device. Flat click positions are int32.

    starts [users]: position of a user's first click; is_first, gaps, gap_starts:
    data_prep.index.click_index.
    """

    items: jax.Array  # [E]
    starts: jax.Array
    is_first: jax.Array
    gaps: jax.Array
    gap_starts: jax.Array


class Examples(NamedTuple):
    """Training examples: positions [T] of the last target each holds, its user, and how many targets it has."""

    ends: jax.Array
    users: jax.Array
    counts: jax.Array


class Bucket(NamedTuple):
    """Examples first..stop-1, histories padded to `length`, batch_size of them a step. Static: known when a step is traced."""

    length: int
    first: int
    stop: int
    batch_size: int


class Batch(NamedTuple):
    """A training batch: history [B, L], its length [B], targets and their weight [B] or [B, L], negatives [..., K] or [K].

    With masked training the history holds num_items + 1 where a click is hidden.
    """

    history: jax.Array
    length: jax.Array
    target: jax.Array
    weight: jax.Array
    negatives: jax.Array


def device_clicks(dataset: Dataset, device=None) -> Clicks:
    """The click sequence and its indices, as arrays of a device (the default one if not given).

    A CPU as the device takes mapped arrays as they lie on disk, and copies nothing.
    """
    index = dataset.index
    arrays = (
        dataset.items,
        dataset.offsets[:-1].astype(np.int32),
        index["is_first"],
        index["gaps"],
        index["gap_starts"],
    )
    # device_put and not jnp.asarray, which compiles a program for each shape
    return Clicks(*jax.device_put(arrays, device))


def clicks_of(
    dataset: Dataset, positions: np.ndarray, users: np.ndarray, capacity: int
) -> tuple[Clicks, np.ndarray]:
    """(the clicks of some targets' users up to each target, as a data set of one user a target; the targets' positions).

    capacity: how many clicks the arrays hold, zeros behind. For evaluation, which draws no
    negatives: gaps are empty.
    """
    starts = dataset.offsets[users]
    counts = positions - starts + 1
    ends = np.cumsum(counts)
    place = np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1])

    def some(column):
        return np.pad(column[place], (0, capacity - len(place)))

    none = np.zeros(1, np.int32)
    first = (ends - counts).astype(np.int32)
    return Clicks(some(dataset.items), first, some(dataset.index["is_first"]), none, none), (
        ends - 1
    ).astype(np.int32)


def training_examples(dataset: Dataset, config, device=None) -> tuple[Examples, tuple[Bucket, ...]]:
    """The examples of an epoch, and their buckets. Each training click but a user's first is the target of just one example.

    targets="last": one example a target. "every", "masked": a user's targets in runs of max_len,
    cut from the end, and sorted by length into the buckets that pad least. config: config.Config;
    device: as
    device_clicks'.
    """
    targets = config.train.targets
    max_len = config.model.max_len
    starts = dataset.offsets[:-1].astype(np.int32)
    ends = dataset.train_ends.astype(np.int32)
    run = 1 if targets == "last" else max_len
    runs = -(-np.maximum(ends - starts - 1, 0) // run)
    users = np.repeat(np.arange(len(starts), dtype=np.int32), runs)
    first_run = np.cumsum(runs, dtype=np.int32) - runs
    run_index = np.arange(len(users), dtype=np.int32) - first_run[users]
    last = ends[users] - 1 - run_index * run
    counts = np.minimum(run, last - starts[users])

    def batch_size(length):
        return (
            max(config.train.batch_tokens // length, 1)
            if config.train.batch_tokens
            else config.train.batch_size
        )

    buckets = (Bucket(max_len, 0, len(last), batch_size(max_len)),)
    if targets != "last" and config.train.length_buckets > 1 and len(last):
        lengths = bucket_lengths(counts, max_len, config.train.length_buckets, batch_size)
        by_bucket = np.argsort(np.searchsorted(lengths, counts), kind="stable")
        last = last[by_bucket]
        users = users[by_bucket]
        counts = counts[by_bucket]
        stops = [int((counts <= length).sum()) for length in lengths]
        sizes = map(batch_size, lengths)
        buckets = tuple(
            Bucket(*b) for b in zip(lengths, [0, *stops[:-1]], stops, sizes, strict=True)
        )
    return Examples(
        *jax.device_put([a.astype(np.int32) for a in (last, users, counts)], device)
    ), buckets


class Histories(NamedTuple):
    """Histories of like length in M batches: [M, B, L], their lengths [M, B], 0 of fillers."""

    history: jax.Array
    length: jax.Array


def training_histories(
    dataset: Dataset, max_len: int, batch_size: int = 256
) -> tuple[Histories, ...]:
    """The last max_len training clicks of each user with two at least, in at most four groups, each padded to a length."""
    counts = np.minimum(dataset.train_ends - dataset.offsets[:-1], max_len)
    widths = bucket_lengths(counts[counts > 1], max_len, 4, lambda length: batch_size)

    def group(shorter: int, width: int) -> Histories:
        users = np.flatnonzero((counts > max(shorter, 1)) & (counts <= width))
        users_MxB = np.pad(users, (0, -len(users) % batch_size), constant_values=-1).reshape(
            -1, batch_size
        )
        length_MxB = np.where(users_MxB >= 0, counts[users_MxB], 0)
        place_MxBxL = (dataset.train_ends[users_MxB] - length_MxB)[..., None] + np.arange(width)
        valid_MxBxL = np.arange(width) < length_MxB[..., None]
        history_MxBxL = np.where(
            valid_MxBxL, dataset.items[np.where(valid_MxBxL, place_MxBxL, 0)], 0
        )
        return Histories(
            *jax.device_put([history_MxBxL.astype(np.int32), length_MxB.astype(np.int32)])
        )

    return tuple(map(group, (0, *widths[:-1]), widths))


def bucket_lengths(counts, max_len: int, most: int, batch_size) -> tuple[int, ...]:
    """At most `most` lengths up to max_len, ascending, that cost the fewest positions, filled-up batches included.

    batch_size: length -> sequences of a step. Chosen among sixteenths of max_len and small powers
    of two. No bucket is empty.
    """
    longest = int(counts.max())
    grid = {-(-max_len * i // 16) for i in range(1, 16)} | {4, 8, 16}
    grid = sorted(length for length in grid if length < longest)
    below = {length: int((counts <= length).sum()) for length in (*grid, longest)}

    def cost(lengths):
        sizes = np.diff([0, *(below[length] for length in lengths)])
        pairs = [
            (size, batch_size(length), length) for size, length in zip(sizes, lengths, strict=True)
        ]
        return sum(-(-size // batch) * batch * length for size, batch, length in pairs)

    chosen = ((*some, longest) for n in range(most) for some in itertools.combinations(grid, n))
    best = min(chosen, key=cost)
    sizes = np.diff([0, *(below[length] for length in best)])
    return tuple(length for length, size in zip(best, sizes, strict=True) if size)


def steps_of(bucket: Bucket) -> int:
    """How many steps an epoch takes through a bucket."""
    return -(-(bucket.stop - bucket.first) // bucket.batch_size)


def step_buckets(epoch, buckets: tuple[Bucket, ...]):
    """The bucket of each step of an epoch [steps], shuffled; the same for every seed, so that stacked runs keep in step."""
    of = np.repeat(
        np.arange(len(buckets), dtype=np.int32), [steps_of(bucket) for bucket in buckets]
    )
    return jax.random.permutation(jax.random.fold_in(jax.random.key(0), epoch), of)


def epoch_order(key, of, buckets: tuple[Bucket, ...]):
    """The examples of an epoch's steps [steps, largest batch], given each step's bucket; shuffled within a bucket.

    Places that no example fills hold the number of examples.
    """
    count = buckets[-1].stop
    order = []
    row = jnp.zeros_like(of)
    widest = max(bucket.batch_size for bucket in buckets)
    for index, bucket in enumerate(buckets):
        size = bucket.stop - bucket.first
        steps = steps_of(bucket)
        row = jnp.where(of == index, sum(map(len, order)) + jnp.cumsum(of == index) - 1, row)
        examples = bucket.first + jax.random.permutation(jax.random.fold_in(key, index), size)
        filled = jnp.pad(examples, (0, steps * bucket.batch_size - size), constant_values=count)
        filled = filled.reshape(steps, bucket.batch_size)
        order.append(
            jnp.pad(filled, ((0, 0), (0, widest - bucket.batch_size)), constant_values=count)
        )
    return jnp.concatenate(order)[row]


def lengths_read(max_len: int) -> tuple[int, ...]:
    """The lengths that a history is padded to where a model only reads it, ascending.

    Most histories are short: a third length costs a little compilation and saves three quarters of
    the time on Beauty.
    """
    return (max_len,) if max_len < 32 else (-(-max_len // 6), -(-max_len // 3), max_len)


def windows(clicks: Clicks, first_B, stop_B, max_len: int):
    """Clicks first..stop-1 of each row, at the left of [B, max_len], zeros behind; at most max_len of them."""
    position_BxL = first_B[:, None] + jnp.arange(max_len)
    return jnp.where(position_BxL < stop_B[:, None], clicks.items[position_BxL], 0)


def histories(clicks: Clicks, positions_B, users_B, max_len: int):
    """The last max_len clicks before each position, and how many there are: ([B, L], [B])."""
    first_B = jnp.maximum(clicks.starts[users_B], positions_B - max_len)
    return windows(clicks, first_B, positions_B, max_len), positions_B - first_B


def draw_negatives(
    key, clicks: Clicks, users, shape: tuple[int, ...], num_items: int, rows: slice = ALL
):
    """Items uniform over those that a user's training clicks do not hold, exactly and without rejection.

    The r-th item outside a sorted set is r plus the number of members that lie before it, found by
    bisection.
    users: indices that broadcast to the rows of `shape`. Held-out items may come up: to avoid them
    would leak them.
    A user whose training clicks hold the whole catalogue has no negatives: the result is 0,
    padding, for each of them.
    """
    first = clicks.gap_starts[users]
    stop = clicks.gap_starts[users + 1]
    free = num_items - (stop - first)
    limit = free
    if (
        rows != ALL
    ):  # drawn for the whole batch, so that a part of it is what it would be in the whole
        limit = jnp.ones((shape[0], *free.shape[1:]), free.dtype).at[rows].set(free)
    rank = jax.random.randint(key, shape, 0, limit)[rows]
    low = jnp.broadcast_to(first, rank.shape)
    high = jnp.broadcast_to(stop, rank.shape)
    for _ in range(num_items.bit_length()):
        middle = (low + high) // 2
        before = (low < high) & (clicks.gaps[middle] <= rank)
        low = jnp.where(before, middle + 1, low)
        high = jnp.where(before, high, middle)
    return jnp.where(free > 0, rank + (low - first) + 1, 0)


def hide(key, length_B, max_len: int, model, batch_size: int, rows: slice = ALL):
    """Which positions masked training hides [B, L]: each with mask_probability, or in some rows the last alone.

    A row of which chance would hide none has its last hidden. model: config.ModelConfig; rows: of a
    batch of batch_size.
    """
    position_L = jnp.arange(max_len)
    is_last_BxL = position_L == length_B[:, None] - 1
    each_key, row_key = jax.random.split(key)
    hidden_BxL = jax.random.bernoulli(each_key, model.mask_probability, (batch_size, max_len))[rows]
    hidden_BxL &= position_L < length_B[:, None]
    last_only_B = jax.random.bernoulli(row_key, model.mask_last_probability, (batch_size,))[
        rows
    ] | ~hidden_BxL.any(1)
    return jnp.where(last_only_B[:, None], is_last_BxL, hidden_BxL)


def make_batch(
    clicks: Clicks,
    examples: Examples,
    order_B,
    key,
    config,
    num_items: int,
    length: int,
    rows: slice = ALL,
) -> Batch:
    """The batch of the examples named in order_B, padded to `length`, with negatives drawn from key.

    config: config.Config. Weights are 0 where there is no target. rows: which part of the batch is
    made, bit for bit as it is in the whole; no other user's clicks are read.
    """
    train = config.train
    batch_size = len(order_B)
    order_B = order_B[rows]
    real_B = order_B < len(examples.ends)
    example_B = jnp.minimum(order_B, len(examples.ends) - 1)
    end_B = examples.ends[example_B]
    user_B = examples.users[example_B]
    key, mask_key = (key, None) if train.targets != "masked" else jax.random.split(key)
    if train.targets == "last":
        history, history_length = histories(clicks, end_B, user_B, length)
        target = clicks.items[end_B]
        weight = real_B
        user = user_B
    else:
        first_B = end_B - examples.counts[example_B]
        history = windows(clicks, first_B, end_B, length)
        history_length = examples.counts[example_B]
        target = windows(clicks, first_B + 1, end_B + 1, length)
        weight = real_B[:, None] & (target > 0)
        user = user_B[:, None]
    if train.targets == "masked":
        target = windows(clicks, first_B, end_B + 1, length + 1)
        history_length = history_length + 1
        hidden = hide(mask_key, history_length, length + 1, config.model, batch_size, rows)
        history = jnp.where(hidden, num_items + 1, target)
        weight = real_B[:, None] & hidden
    if train.loss == "softmax":
        negatives = jnp.zeros((0,), jnp.int32)
    elif train.loss == "sampled_softmax":
        negatives = jax.random.randint(key, (train.num_negatives,), 1, num_items + 1)
    else:
        shape = batch_size, *target.shape[1:], train.num_negatives
        negatives = draw_negatives(key, clicks, user[..., None], shape, num_items, rows)
    return Batch(history, history_length, target, weight.astype(jnp.float32), negatives)
