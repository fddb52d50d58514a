"""Lookup arrays of each user's clicks, derived from the data once and stored with them."""

import numpy as np

CLICKS_AT_ONCE = 2**22  # clicks, of whole users, that are sorted at a time, to bound the memory


def is_training(offsets: np.ndarray, train_ends: np.ndarray) -> np.ndarray:
    """Return [E] bool: whether each click of these users is a training click.

    offsets [users + 1], train_ends [users]: user u's clicks are at offsets[u]..offsets[u+1]-1, of
    which those before train_ends[u] are for training. The users may be consecutive ones of a larger
    set: offsets need not begin at 0.
    """
    counts = np.stack([train_ends - offsets[:-1], offsets[1:] - train_ends], axis=1)
    return np.repeat(np.tile([True, False], len(counts)), counts.ravel())


def click_index(
    items: np.ndarray, offsets: np.ndarray, train_ends: np.ndarray, num_items: int
) -> dict[str, np.ndarray]:
    """Return is_first [E], gaps [G] and gap_starts [users + 1] of clicks in order.

    items, offsets, train_ends: as in prepare.py's folder.
    is_first: whether the user clicks this item for the first time.
    gaps: for each of a user's distinct training items, in ascending order from gap_starts[user] on,
    item - 1 - rank: the number of smaller items that are not among them. Sampling from the other
    items bisects this array.
    """
    is_first = np.zeros(len(items), bool)
    gaps = []
    gap_counts = []
    for low, high in blocks(offsets):
        begin = offsets[low]
        end = offsets[high]
        bounds = offsets[low : high + 1]
        users = np.repeat(np.arange(high - low), np.diff(bounds))
        user_item = users * np.int64(num_items + 1) + items[begin:end]
        by_pair = np.argsort(user_item, kind="stable")
        first = by_pair[np.diff(user_item[by_pair], prepend=-1) > 0]
        is_first[begin + first] = True
        # a pair is trained on if its first click is, since training clicks come first
        trained = is_training(bounds, train_ends[low:high])[first]
        user, item = np.divmod(user_item[first[trained]], num_items + 1)
        counts = np.bincount(user, minlength=high - low)
        rank = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
        gaps.append((item - 1 - rank).astype(np.int32))
        gap_counts.append(counts)
    gap_starts = np.concatenate([[0], np.cumsum(np.concatenate(gap_counts))]).astype(np.int32)
    return {"is_first": is_first, "gaps": np.concatenate(gaps), "gap_starts": gap_starts}


def clicks_per_item(items: np.ndarray, num_items: int) -> np.ndarray:
    """Return the number of clicks on each item [V]; items: as in prepare.py's folder."""
    counts = np.zeros(num_items + 1, np.int64)
    for first in range(0, len(items), CLICKS_AT_ONCE):  # bincount copies its argument as int64
        part = items[first : first + CLICKS_AT_ONCE]
        counts += np.bincount(part, minlength=len(counts))
    return counts[1:]


def blocks(offsets: np.ndarray, size: int = 0) -> list[tuple[int, int]]:
    """Divide all users, in order, into blocks of about `size` clicks (0: CLICKS_AT_ONCE).

    Return each block's first user and the one after its last.
    """
    bounds = np.searchsorted(offsets, np.arange(0, offsets[-1], size or CLICKS_AT_ONCE)[1:])
    bounds = np.unique([0, *bounds, len(offsets) - 1])
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
