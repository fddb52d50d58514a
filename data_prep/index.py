"""Indices of each user's clicks for training and evaluation, derived once from the other arrays."""

import numpy as np

CLICKS_AT_ONCE = 2**22  # whole users; what is sorted of them at once stays small


def click_index(
    items: np.ndarray, offsets: np.ndarray, train_ends: np.ndarray, num_items: int
) -> dict[str, np.ndarray]:
    """Return is_first [E], gaps [G] and gap_starts [users + 1] of clicks in order.

    The arguments are prepare.py's arrays. is_first: whether the user clicks this item for the first
    time. gaps: a user's distinct training items in ascending order, as item - 1 - rank, from
    gap_starts[user] on. That is the number of items before it that are not among them, by which
    the others are sampled.
    """
    is_first = np.zeros(len(items), bool)
    gaps = []
    gap_counts = []
    for low, high in blocks(offsets):
        begin = offsets[low]
        end = offsets[high]
        counts = np.diff(offsets[low : high + 1])
        users = np.repeat(np.arange(high - low), counts)
        user_item = users * np.int64(num_items + 1) + items[begin:end]
        by_pair = np.argsort(user_item, kind="stable")
        first = by_pair[np.diff(user_item[by_pair], prepend=-1) > 0]
        is_first[begin + first] = True
        trained = is_training(offsets[low : high + 1], train_ends[low:high])[first]
        known_user, known_item = np.divmod(user_item[first[trained]], num_items + 1)
        gap_counts.append(np.bincount(known_user, minlength=high - low))
        rank = np.arange(len(known_item)) - np.repeat(
            np.cumsum(gap_counts[-1]) - gap_counts[-1], gap_counts[-1]
        )
        gaps.append((known_item - 1 - rank).astype(np.int32))
    gap_starts = np.concatenate([[0], np.cumsum(np.concatenate(gap_counts))]).astype(np.int32)
    return {"is_first": is_first, "gaps": np.concatenate(gaps), "gap_starts": gap_starts}


def is_training(offsets: np.ndarray, train_ends: np.ndarray) -> np.ndarray:
    """Return which of some users' clicks are training clicks [offsets[-1] - offsets[0]].

    offsets [users + 1], train_ends [users]: of consecutive users, in flat click positions. A user's
    training clicks come first.
    """
    position = np.arange(offsets[0], offsets[-1])
    return position < np.repeat(train_ends, np.diff(offsets))


def blocks(offsets: np.ndarray, size: int = 0) -> list[tuple[int, int]]:
    """Return (first user, one past the last) of blocks of all users, in order.

    A block has about `size` clicks, CLICKS_AT_ONCE by default.
    """
    bounds = np.searchsorted(offsets, np.arange(0, offsets[-1], size or CLICKS_AT_ONCE)[1:])
    bounds = np.unique([0, *bounds, len(offsets) - 1])
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
