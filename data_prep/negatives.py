"""The sampled evaluation sets: for each target, items that its user never clicks, drawn once and stored.

From raw bits of PCG64, which NumPy promises not to change, and integer arithmetic: one seed gives
one set everywhere.
"""

from typing import NamedTuple

import numpy as np

from data_prep.index import blocks
from data_prep.settings import UserError

BLOCK = 2**18  # negatives drawn at once; part of what a seed means
ROUNDS = (1, 4, 16)  # draws of a row, in multiples of the first, before its rest is drawn exactly
TAKEN = np.int64(2**62)


class Clicked(NamedTuple):
    """What each user clicks: user * base + item, ascending and distinct."""

    keys: np.ndarray
    base: int


def clicked(items: np.ndarray, offsets: np.ndarray, num_items: int) -> Clicked:
    """The distinct (user, item) pairs of the clicks `items` [E], of users that begin at offsets [users + 1]."""
    base = num_items + 1
    keys = np.empty(len(items), np.int64)
    count = 0
    for low, high in blocks(
        offsets
    ):  # a small sort is faster, and nothing else is as large as the clicks
        users = np.repeat(np.arange(low, high, dtype=np.int64), np.diff(offsets[low : high + 1]))
        found = np.sort(users * base + items[offsets[low] : offsets[high]])
        found = found[np.diff(found, prepend=-1) > 0]
        keys[count : count + len(found)] = found
        count += len(found)
    return Clicked(keys[:count], base)


def draw(
    users: np.ndarray, history: Clicked, pool: np.ndarray, count: int, seed: tuple[int, ...]
) -> np.ndarray:
    """[T, count] int32: per user (ascending, [T]) `count` distinct items that it never clicks.

    One after another, each in proportion to how often an item stands in `pool`: 1..V for uniform
    ones, the training clicks for popularity. Raises UserError if a user leaves too few items to
    draw from.
    """
    weights = np.bincount(pool, minlength=history.base)
    _check_enough(users, history, weights, count)
    bits = np.random.PCG64(np.random.SeedSequence(seed))
    drawn = np.empty((len(users), count), np.int32)
    rows = max(BLOCK // count, 1)
    for start in range(0, len(users), rows):
        block = users[start : start + rows]
        drawn[start : start + rows] = _draw_block(block, history, pool, weights, count, bits)
    return drawn


def _check_enough(users: np.ndarray, history: Clicked, weights: np.ndarray, count: int) -> None:
    """Raises UserError if for some user fewer than `count` items are in the pool and not in the history."""
    first, stop = (
        np.searchsorted(history.keys, (users + behind) * history.base) for behind in (0, 1)
    )
    most = np.count_nonzero(weights)
    doubtful = np.flatnonzero(
        most - (stop - first) < count
    )  # the pool need not hold all that they clicked
    lost = [
        np.count_nonzero(weights[history.keys[first[row] : stop[row]] % history.base])
        for row in doubtful
    ]
    if lost and (fewest := most - max(lost)) < count:
        remedy = f"set it to at most {fewest}, or use more data" if fewest else "use more data"
        raise UserError(
            f"--eval_negatives={count}: the catalogue is too small; of {most} items that may be drawn, "
            f"a user leaves only {fewest} unclicked; {remedy} or a lower --item_core"
        )


def _draw_block(
    users: np.ndarray,
    history: Clicked,
    pool: np.ndarray,
    weights: np.ndarray,
    count: int,
    bits: np.random.PCG64,
) -> np.ndarray:
    """[R, count]: the first `count` draws of each row that are neither in the history nor drawn before."""
    low, high = np.searchsorted(
        history.keys, [users[0] * history.base, (users[-1] + 1) * history.base]
    )
    history = Clicked(history.keys[low:high], history.base)
    result = np.zeros((len(users), count), np.int64)
    open_rows = np.arange(len(users))
    draws = np.zeros((len(users), 0), np.int64)
    found = np.zeros(0, np.int64)
    for times in ROUNDS:
        width = times * (count + count // 4 + 8)
        more = (
            pool[below(bits, len(pool), len(open_rows) * width)]
            .reshape(len(open_rows), width)
            .astype(np.int64)
        )
        draws = np.concatenate([draws, more], axis=1)
        kept, found = _first_distinct(users[open_rows], draws, history, count)
        result[open_rows] = kept
        unfinished = found < count
        open_rows = open_rows[unfinished]
        draws = draws[unfinished]
        found = found[unfinished]
        if not len(open_rows):
            return result
    for row, got in zip(open_rows, found, strict=True):
        result[row, got:] = _draw_rest(
            users[row], result[row, :got], history, weights, count - got, bits
        )
    return result


def _first_distinct(
    users: np.ndarray, draws: np.ndarray, history: Clicked, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """([R, count], [R]): the first valid draws [R, M] of each row in the order they were drawn, 0 behind; how many."""
    places = np.arange(draws.shape[1])
    codes = np.sort(draws << 20 | places, axis=1)  # by item, then by when it was drawn
    items = codes >> 20
    places = codes & (2**20 - 1)
    keys = users[:, None] * history.base + items
    near = np.minimum(np.searchsorted(history.keys, keys.ravel()), len(history.keys) - 1).reshape(
        keys.shape
    )
    invalid = history.keys[near] == keys
    invalid[:, 1:] |= items[:, 1:] == items[:, :-1]
    codes = np.sort(np.where(invalid, TAKEN, places << 32 | items), axis=1)[:, :count]
    return np.where(codes == TAKEN, 0, codes & (2**32 - 1)), (codes != TAKEN).sum(axis=1)


def _draw_rest(
    user: int,
    kept: np.ndarray,
    history: Clicked,
    weights: np.ndarray,
    count: int,
    bits: np.random.PCG64,
) -> np.ndarray:
    """`count` further items of one row: the smallest of exponential variables of rates `weights`, which is the same law."""
    low, high = np.searchsorted(history.keys, [user * history.base, (user + 1) * history.base])
    rates = weights.astype(np.float64)
    rates[history.keys[low:high] - user * history.base] = 0
    rates[kept] = 0
    free = np.flatnonzero(rates)
    uniform = ((bits.random_raw(len(free)) >> np.uint64(11)) + 0.5) * 2.0**-53
    return free[np.argsort(-np.log(uniform) / rates[free], kind="stable")[:count]]


def below(bits: np.random.PCG64, bound: int, count: int) -> np.ndarray:
    """`count` integers in 0..bound-1, bound up to 2**32; uneven by less than bound / 2**32."""
    return ((bits.random_raw(count) >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(
        np.int64
    )
