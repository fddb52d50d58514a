"""The sampled evaluation sets: for each target, items that its user never clicks.

They are sampled once and stored. Integer arithmetic on raw bits of PCG64, which NumPy promises not
to change, gives the same set for a seed on every machine.
"""

from typing import NamedTuple

import numpy as np

from data_prep.index import blocks, is_training
from data_prep.settings import UserError

BLOCK = 2**18  # negatives drawn at a time; changing it changes the negatives of a seed
# Draws of a row in each round of rejection sampling, in multiples of the first; negatives that are
# missing after the last round are drawn exactly.
ROUNDS = (1, 4, 16)
INVALID = np.int64(2**62)  # marks a rejected draw; larger than any code


class Clicked(NamedTuple):
    """The items that each user clicks: the distinct values of user * base + item, ascending."""

    keys: np.ndarray
    base: int


def clicked(items: np.ndarray, offsets: np.ndarray, num_items: int) -> Clicked:
    """Return the distinct (user, item) pairs of clicks: items [E], offsets [users + 1]."""
    base = num_items + 1
    keys = np.empty(len(items), np.int64)
    count = 0
    # in blocks: small sorts are faster, and no temporary array is as large as the clicks
    for low, high in blocks(offsets):
        users = np.repeat(np.arange(low, high, dtype=np.int64), np.diff(offsets[low : high + 1]))
        pairs = np.sort(users * base + items[offsets[low] : offsets[high]])
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        keys[count : count + len(pairs)] = pairs
        count += len(pairs)
    return Clicked(keys[:count], base)


def pool(
    kind: str, items: np.ndarray, offsets: np.ndarray, train_ends: np.ndarray, num_items: int
) -> np.ndarray:
    """Return the items from which negatives are sampled, each as often as its weight.

    These are all items once if `kind` is uniform, the items of the training clicks if it is
    popularity.
    """
    if kind == "uniform":
        return np.arange(1, num_items + 1)
    return items[is_training(offsets, train_ends)]


def draw(
    users: np.ndarray,
    history: Clicked,
    pool: np.ndarray,
    count: int,
    seed: tuple[int, ...],
    apart: np.ndarray | None = None,
) -> np.ndarray:
    """Return [T, count] int32: for each of users [T] (ascending) `count` distinct unclicked items.

    They are drawn one after another, with probabilities proportional to their frequency in `pool`:
    1..V for uniform sampling, the training clicks for sampling by popularity. The rows of users who
    have clicked so many items that fewer are left are 0, which is no item. Raise UserError if these
    are all users. apart: rows [T] that are drawn after all others and by another seed, so that they
    change nothing for the others.
    """
    weights = np.bincount(pool, minlength=history.base)
    drawn = np.zeros((len(users), count), np.int32)
    eligible = _have_enough(users, history, weights, count)
    is_apart = np.zeros(len(users), bool) if apart is None else apart
    groups = {seed: eligible[~is_apart[eligible]], (*seed, 1): eligible[is_apart[eligible]]}
    rows = max(BLOCK // count, 1)
    for seed_of_group, members in groups.items():
        bits = np.random.PCG64(np.random.SeedSequence(seed_of_group))
        for start in range(0, len(members), rows):
            block = members[start : start + rows]
            drawn[block] = _draw_block(users[block], history, pool, weights, count, bits)
    return drawn


def _have_enough(
    users: np.ndarray, history: Clicked, weights: np.ndarray, count: int
) -> np.ndarray:
    """Return the rows of users with at least `count` unclicked items in the pool.

    Raise UserError if there are none.
    """
    first = np.searchsorted(history.keys, users * history.base)
    stop = np.searchsorted(history.keys, (users + 1) * history.base)
    most = np.count_nonzero(weights)
    # counted exactly only if necessary: the pool may lack items that a user clicked
    doubtful = np.flatnonzero(most - (stop - first) < count)
    left = np.full(len(users), most)
    for row in doubtful:
        clicked_items = history.keys[first[row] : stop[row]] % history.base
        left[row] -= np.count_nonzero(weights[clicked_items])
    eligible = np.flatnonzero(left >= count)
    if len(users) and not len(eligible):
        remedy = f"set it to at most {left.max()}" if left.max() else "use more data"
        raise UserError(
            f"--eval_negatives={count}: the catalogue is too small; of {most} items that may be "
            f"sampled, no user leaves more than {left.max()}; {remedy} or a lower --item_core"
        )
    return eligible


def _draw_block(
    users: np.ndarray,
    history: Clicked,
    pool: np.ndarray,
    weights: np.ndarray,
    count: int,
    bits: np.random.PCG64,
) -> np.ndarray:
    """Return [R, count]: each row's first `count` draws that are unclicked and distinct."""
    low, high = np.searchsorted(
        history.keys, [users[0] * history.base, (users[-1] + 1) * history.base]
    )
    history = Clicked(history.keys[low:high], history.base)
    result = np.zeros((len(users), count), np.int64)
    open_rows = np.arange(len(users))
    draws = np.zeros((len(users), 0), np.int64)
    counts = np.zeros(0, np.int64)
    for times in ROUNDS:
        width = times * (count + count // 4 + 8)
        more = (
            pool[below(bits, len(pool), len(open_rows) * width)]
            .reshape(len(open_rows), width)
            .astype(np.int64)
        )
        draws = np.concatenate([draws, more], axis=1)
        kept, counts = _first_distinct(users[open_rows], draws, history, count)
        result[open_rows] = kept
        unfinished = counts < count
        open_rows = open_rows[unfinished]
        draws = draws[unfinished]
        counts = counts[unfinished]
        if not len(open_rows):
            return result
    for row, done in zip(open_rows.tolist(), counts.tolist(), strict=True):
        result[row, done:] = _draw_rest(
            int(users[row]), result[row, :done], history, weights, count - done, bits
        )
    return result


def _first_distinct(
    users: np.ndarray, draws: np.ndarray, history: Clicked, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `count` valid draws of each row's draws [R, M], and their number [R].

    They keep the order in which they were drawn; zeros follow if there are fewer.
    """
    # an item and its turn in one integer, sorted by item, then by turn
    codes = np.sort(draws << 20 | np.arange(draws.shape[1]), axis=1)
    items = codes >> 20
    turns = codes & (2**20 - 1)
    keys = users[:, None] * history.base + items
    nearest = np.searchsorted(history.keys, keys.ravel()).reshape(keys.shape)
    invalid = history.keys[np.minimum(nearest, len(history.keys) - 1)] == keys
    invalid[:, 1:] |= items[:, 1:] == items[:, :-1]
    codes = np.sort(np.where(invalid, INVALID, turns << 32 | items), axis=1)[:, :count]
    return np.where(codes == INVALID, 0, codes & (2**32 - 1)), (codes != INVALID).sum(axis=1)


def _draw_rest(
    user: int,
    kept: np.ndarray,
    history: Clicked,
    weights: np.ndarray,
    count: int,
    bits: np.random.PCG64,
) -> np.ndarray:
    """Return `count` further items of one row, drawn exactly.

    They are the items with the smallest of independent exponential variables whose rates are the
    weights, which have the same distribution as draws without replacement.
    """
    low, high = np.searchsorted(history.keys, [user * history.base, (user + 1) * history.base])
    rates = weights.astype(np.float64)
    rates[history.keys[low:high] - user * history.base] = 0
    rates[kept] = 0
    free = np.flatnonzero(rates)
    uniform = ((bits.random_raw(len(free)) >> np.uint64(11)) + 0.5) * 2.0**-53
    return free[np.argsort(-np.log(uniform) / rates[free], kind="stable")[:count]]


def below(bits: np.random.PCG64, bound: int, count: int) -> np.ndarray:
    """Return `count` integers in 0..bound-1, bound <= 2**32; biased by less than bound / 2**32."""
    return ((bits.random_raw(count) >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(
        np.int64
    )
