"""Batches of evaluation targets whose histories are padded to the same length. Plain NumPy."""

from typing import NamedTuple

import numpy as np


class Grouping(NamedTuple):
    """The batches of every evaluation set.

    Both sets have the same number of batches of each length, so that one program serves both. A
    batch with too few targets repeats some of them.
    """

    # {set: {padded length, ascending: indices into the set [batches, rows]}}
    batches: dict[str, dict[int, np.ndarray]]
    # {set: [T]}: the position of each target in the concatenated, flattened batches
    slots: dict[str, np.ndarray]
    # {padded length: the number of batches per dispatch}
    per_dispatch: dict[int, int]


def group_by_length(
    seen: dict[str, np.ndarray],
    max_len: int,
    lengths: tuple[int, ...],
    rows: int,
    per_dispatch: int | None = None,
) -> Grouping:
    """Return the batches of evaluation sets.

    Args:
        seen: {set: the number of clicks before each target [T]}.
        max_len: the maximum number of these that a model reads.
        lengths: the lengths that histories are padded to, ascending, max_len last.
        rows: the number of targets per batch.
        per_dispatch: the maximum number of batches per dispatch; None for all.
    """
    batches: dict[str, dict[int, np.ndarray]] = {name: {} for name in seen}
    slots = {name: np.zeros(len(counts), int) for name, counts in seen.items()}
    dispatched = {}
    first = 0
    for group, length in enumerate(lengths):
        members = {name: _members(group, seen[name], max_len, lengths) for name in seen}
        count = -(-max(map(len, members.values())) // rows)
        dispatched[length] = count if per_dispatch is None else max(min(per_dispatch, count), 1)
        count += -count % max(dispatched[length], 1)
        for name, targets in members.items() if count else ():
            batches[name][length] = np.resize(targets if len(targets) else 0, (count, rows))
            slots[name][targets] = first + np.arange(len(targets))
        first += count * rows
    return Grouping(batches, slots, dispatched)


def _members(group: int, seen: np.ndarray, max_len: int, lengths: tuple[int, ...]) -> np.ndarray:
    """Return the targets whose histories are padded to lengths[group].

    They are ordered by the number of clicks: a batch's longest history determines the cost of
    excluding seen items.
    """
    members = np.flatnonzero(np.searchsorted(lengths, np.minimum(seen, max_len)) == group)
    return members[np.argsort(seen[members], kind="stable")]
