"""Clicks of a user with equal times: how many there are, and whether their order tells the item.

Reviews of Amazon, for example, have days for times and come in files that are sorted by item, so
that of two clicks on one day the second is the one whose item id is greater.
"""

from typing import NamedTuple

import numpy as np

from data_prep.index import blocks

STREAM = 3  # of random bits for a seed; see split.py for the others


class Ties(NamedTuple):
    """Counts of clicks that share their time with another of the same user.

    duplicates: those that repeat another's item as well. pairs: neighbours with equal times and
    different items; ascending: those of them whose second item has the greater id. About half of
    the pairs ascend if the order does not depend on the item.
    """

    clicks: int
    duplicates: int
    pairs: int
    ascending: int


def count(items: np.ndarray, times: np.ndarray, offsets: np.ndarray) -> Ties:
    """Return the ties of clicks in order of users and times; items are numbered as ids ascend."""
    total = np.zeros(len(Ties._fields), np.int64)
    for low, high in blocks(offsets):
        part = slice(offsets[low], offsets[high])
        of_item = items[part].astype(np.int64)
        moment = _moments(times[part], offsets[low : high + 1])
        same = np.diff(moment) == 0  # each click and the next one
        if not same.any():
            continue
        tied = np.zeros(len(of_item), bool)
        tied[1:] |= same
        tied[:-1] |= same
        keys = np.sort(moment[tied] * (of_item.max() + 1) + of_item[tied])
        steps = np.diff(of_item)[same]
        total += tied.sum(), (np.diff(keys) == 0).sum(), (steps != 0).sum(), (steps > 0).sum()
    return Ties(*total.tolist())


def shuffle(items: np.ndarray, times: np.ndarray, offsets: np.ndarray, seed: int) -> None:
    """Put each user's clicks with equal times in a random order, in place."""
    bits = np.random.PCG64(np.random.SeedSequence((seed, STREAM)))
    for low, high in blocks(offsets):
        part = slice(offsets[low], offsets[high])
        moment = _moments(times[part], offsets[low : high + 1])
        items[part] = items[part][np.lexsort((bits.random_raw(len(moment)), moment))]


def _moments(times: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return a number for each click, ascending, which a user's clicks with equal times share.

    bounds: where each user's clicks begin, and where the last one's end.
    """
    is_new = np.ones(len(times), np.int64)
    is_new[1:] = np.diff(times) != 0
    is_new[bounds[:-1] - bounds[0]] = 1
    return np.cumsum(is_new)
