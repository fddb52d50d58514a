"""The training examples of an epoch, grouped by length, in the order of the steps."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.config import Config
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.data.popularity import items_by_popularity


class Examples(NamedTuple):
    """Training examples [T]: positions of their last targets, users, numbers of targets.

    by_popularity [V]: the items by falling number of training clicks, if negatives are sampled by
    popularity, else ().
    """

    ends: jax.Array
    users: jax.Array
    counts: jax.Array
    by_popularity: Any = ()


class Bucket(NamedTuple):
    """Examples first..stop-1, padded to `length`, of which a step takes batch_size.

    Static: known when a step is traced.
    """

    length: int
    first: int
    stop: int
    batch_size: int


def training_examples(
    dataset: Dataset, config: Config, device: jax.Device | None = None
) -> tuple[Examples, tuple[Bucket, ...]]:
    """Return an epoch's examples and their buckets.

    Every training click except a user's first is a target exactly once. targets="last": an example
    has one target. targets="every" or "masked": a user's targets are cut into segments of max_len,
    counted from the last one, and sorted by length into the buckets that need the least padding.
    device: see `clicks.device_clicks`.
    """
    targets = config.train.targets
    max_len = config.model.max_len
    starts = dataset.offsets[:-1].astype(np.int32)
    ends = dataset.train_ends.astype(np.int32)
    run_length = 1 if targets == "last" else max_len
    num_runs = -(-np.maximum(ends - starts - 1, 0) // run_length)
    users = np.repeat(np.arange(len(starts), dtype=np.int32), num_runs)
    first_run = np.cumsum(num_runs, dtype=np.int32) - num_runs
    run_index = np.arange(len(users), dtype=np.int32) - first_run[users]
    last = ends[users] - 1 - run_index * run_length
    counts = np.minimum(run_length, last - starts[users])

    def batch_size(length: int) -> int:
        if config.train.batch_tokens:
            return max(config.train.batch_tokens // length, 1)
        return config.train.batch_size

    buckets: tuple[Bucket, ...] = (Bucket(max_len, 0, len(last), batch_size(max_len)),)
    if targets != "last" and config.train.length_buckets > 1 and len(last):
        lengths = bucket_lengths(counts, max_len, config.train.length_buckets, batch_size)
        by_bucket = np.argsort(np.searchsorted(lengths, counts), kind="stable")
        last = last[by_bucket]
        users = users[by_bucket]
        counts = counts[by_bucket]
        stops = [int((counts <= length).sum()) for length in lengths]
        firsts = [0, *stops[:-1]]
        buckets = tuple(
            Bucket(length, first, stop, batch_size(length))
            for length, first, stop in zip(lengths, firsts, stops, strict=True)
        )
    columns = [last, users, counts]
    if config.train.training_negatives == "log_uniform":
        columns.append(items_by_popularity(dataset))
    columns = [column.astype(np.int32) for column in columns]
    return Examples(*jax.device_put(columns, device)), buckets


def bucket_lengths(
    counts: np.ndarray, max_len: int, max_buckets: int, batch_size: Callable[[int], int]
) -> tuple[int, ...]:
    """Return up to max_buckets padded lengths, ascending, with the fewest positions in total.

    Incomplete batches count as full ones. batch_size: the number of sequences per step, given their
    length. The lengths are chosen from sixteenths of max_len and small powers of two. No bucket is
    empty.
    """
    longest = int(counts.max())
    grid = {-(-max_len * i // 16) for i in range(1, 16)} | {4, 8, 16}
    shorter = sorted(length for length in grid if length < longest)
    num_up_to = {length: int((counts <= length).sum()) for length in (*shorter, longest)}

    def sizes(lengths: tuple[int, ...]) -> list[int]:
        return np.diff([0, *(num_up_to[length] for length in lengths)]).tolist()

    def cost(lengths: tuple[int, ...]) -> int:
        batches = [batch_size(length) for length in lengths]
        padded = [-(-size // b) * b for size, b in zip(sizes(lengths), batches, strict=True)]
        return sum(size * length for size, length in zip(padded, lengths, strict=True))

    choices = (
        (*some, longest) for n in range(max_buckets) for some in itertools.combinations(shorter, n)
    )
    best = min(choices, key=cost)
    return tuple(length for length, size in zip(best, sizes(best), strict=True) if size)


def steps_of(bucket: Bucket) -> int:
    """Return the number of steps per epoch for a bucket."""
    return -(-(bucket.stop - bucket.first) // bucket.batch_size)


def step_buckets(epoch: jax.Array | int, buckets: tuple[Bucket, ...]) -> jax.Array:
    """Return the index of the bucket of each step of an epoch [S], shuffled.

    The order is the same for every seed, so that stacked runs take steps of one shape at a time.
    """
    bucket_S = np.repeat(
        np.arange(len(buckets), dtype=np.int32), [steps_of(bucket) for bucket in buckets]
    )
    return jax.random.permutation(jax.random.fold_in(jax.random.key(0), epoch), bucket_S)


def epoch_order(key: jax.Array, bucket_S: jax.Array, buckets: tuple[Bucket, ...]) -> jax.Array:
    """Return the examples of an epoch's steps [S, largest batch], shuffled within each bucket.

    Unfilled rows hold the number of examples.
    """
    count = buckets[-1].stop
    largest = max(bucket.batch_size for bucket in buckets)
    order: list[jax.Array] = []
    num_rows = 0
    row_S = jnp.zeros_like(bucket_S)
    for index, bucket in enumerate(buckets):
        size = bucket.stop - bucket.first
        steps = steps_of(bucket)
        is_here_S = bucket_S == index
        row_S = jnp.where(is_here_S, num_rows + jnp.cumsum(is_here_S) - 1, row_S)
        examples = bucket.first + jax.random.permutation(jax.random.fold_in(key, index), size)
        padding = (0, steps * bucket.batch_size - size)
        rows = jnp.pad(examples, padding, constant_values=count).reshape(steps, bucket.batch_size)
        unused = ((0, 0), (0, largest - bucket.batch_size))
        order.append(jnp.pad(rows, unused, constant_values=count))
        num_rows += steps
    return jnp.concatenate(order)[row_S]


class Histories(NamedTuple):
    """Histories of similar length [M, B, L], and their lengths [M, B], 0 for padding rows."""

    history: jax.Array
    length: jax.Array


def training_histories(
    dataset: Dataset, max_len: int, batch_size: int = 256
) -> tuple[Histories, ...]:
    """Return the last max_len training clicks of users with at least two, in up to four groups."""
    counts = np.minimum(dataset.train_ends - dataset.offsets[:-1], max_len)
    widths = bucket_lengths(counts[counts > 1], max_len, 4, lambda length: batch_size)

    def group(shorter: int, width: int) -> Histories:
        users = np.flatnonzero((counts > max(shorter, 1)) & (counts <= width))
        padding = (0, -len(users) % batch_size)
        users_MxB = np.pad(users, padding, constant_values=-1).reshape(-1, batch_size)
        length_MxB = np.where(users_MxB >= 0, counts[users_MxB], 0)
        first_MxB = dataset.train_ends[users_MxB] - length_MxB
        position_MxBxL = first_MxB[..., None] + np.arange(width)
        valid_MxBxL = np.arange(width) < length_MxB[..., None]
        items_MxBxL = dataset.items[np.where(valid_MxBxL, position_MxBxL, 0)]
        history_MxBxL = np.where(valid_MxBxL, items_MxBxL, 0)
        arrays = [history_MxBxL.astype(np.int32), length_MxB.astype(np.int32)]
        return Histories(*jax.device_put(arrays))

    return tuple(map(group, (0, *widths[:-1]), widths))
