"""Clicks of a user with equal times: how many there are, and whether their order tells the item.

Reviews of Amazon, for example, have days for times and come in files that are sorted by item, so
that of two clicks on one day the second is the one whose item id is greater.
"""

import numpy as np

from data_prep.index import blocks

STREAM = 3  # of random bits for a seed; see split.py for the others


def count(items: np.ndarray, times: np.ndarray, offsets: np.ndarray) -> tuple[int, int]:
    """Return how many clicks share their time with another of the same user, and how many repeat
    another's item as well.

    Clicks are in order of users and times.
    """
    ties = 0
    duplicates = 0
    for low, high in blocks(offsets):
        part = slice(offsets[low], offsets[high])
        same = np.diff(times[part]) == 0  # each click and the next one
        same[offsets[low + 1 : high] - offsets[low] - 1] = False  # the next one is another user's
        if not same.any():
            continue
        tied = np.zeros(len(same) + 1, bool)
        tied[1:] |= same
        tied[:-1] |= same
        ties += int(tied.sum())
        moments = np.concatenate([[0], np.cumsum(~same)])[tied]
        keys = np.sort(moments * (int(items[part].max(initial=0)) + 1) + items[part][tied])
        duplicates += int((np.diff(keys) == 0).sum())
    return ties, duplicates


def pairs_by_item(items: np.ndarray, times: np.ndarray, offsets: np.ndarray) -> tuple[int, int]:
    """Return how many neighbouring clicks of a user have equal times and different items, and in
    how many of these pairs the id of the second item is the greater one.

    Items are numbered in the order of their ids. About half of the pairs ascend in data whose order
    does not depend on the item.
    """
    pairs = ascending = 0
    for low, high in blocks(offsets):
        part = slice(offsets[low], offsets[high])
        steps = np.diff(items[part].astype(np.int64))
        steps[np.diff(times[part]) != 0] = 0
        steps[offsets[low + 1 : high] - offsets[low] - 1] = 0  # the next click is another user's
        pairs += int(np.count_nonzero(steps))
        ascending += int((steps > 0).sum())
    return pairs, ascending


def shuffle(items: np.ndarray, times: np.ndarray, offsets: np.ndarray, seed: int) -> None:
    """Put each user's clicks with equal times in a random order, in place."""
    bits = np.random.PCG64(np.random.SeedSequence((seed, STREAM)))
    for low, high in blocks(offsets):
        part = slice(offsets[low], offsets[high])
        is_new = np.ones(offsets[high] - offsets[low], bool)
        is_new[1:] = np.diff(times[part]) != 0
        is_new[offsets[low:high] - offsets[low]] = True
        order = np.lexsort((bits.random_raw(len(is_new)), np.cumsum(is_new)))
        items[part] = items[part][order]
