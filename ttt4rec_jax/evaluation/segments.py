"""Metrics by segment: how long a user's history is, and how popular the target. Imports no JAX.

head, middle, tail  Items in the order of their training clicks, cut where they have made up a third
                    and two thirds of all training clicks. Items with equally many clicks are in the
                    same part, so that no order among them matters.
cold                Items without a training click.
warm, new           Users with and without a training click, if some targets are of new users.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.split import is_new
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.metrics import CUTOFFS, Ranks, chosen_ranks, summarise

HISTORY_BOUNDS = (0, 1, 5, 10, 20, 50, 100)  # the lowest number of clicks of each part
PARTS = ("head", "middle", "tail", "cold")
GROUPS = {
    "history": "clicks before the target",
    "item": "training clicks on the target",
    "user": "whether any click of the user was trained on",
}


def segments(
    dataset: Dataset, targets: Targets, clicks_V: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return {group: {segment: which targets are in it [T]}}; segments without a target are not.

    clicks_V: the training clicks on each item.
    """
    history_T = targets.positions - dataset.offsets[targets.users]
    bound_T = np.searchsorted(HISTORY_BOUNDS, history_T, side="right") - 1
    part_T = item_parts(clicks_V)[dataset.items[targets.positions] - 1]
    groups = {
        "history": {name: bound_T == n for n, name in enumerate(history_names())},
        "item": {name: part_T == n for n, name in enumerate(PARTS)},
    }
    is_new_T = is_new(dataset.offsets, dataset.train_ends, targets.users)
    if is_new_T.any():
        groups["user"] = {"warm": ~is_new_T, "new": is_new_T}
    return {
        group: {name: chosen for name, chosen in of_group.items() if chosen.any()}
        for group, of_group in groups.items()
    }


def history_names() -> list[str]:
    """Return the names of the segments by length of history: "0", "1-4", ..., "100+"."""
    after = [*HISTORY_BOUNDS[1:], None]
    return [
        f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        for low, high in zip(HISTORY_BOUNDS, after, strict=True)
    ]


def item_parts(clicks_V: np.ndarray) -> np.ndarray:
    """Return the index in PARTS of each item [V]."""
    order = np.argsort(-clicks_V, kind="stable")
    before = np.cumsum(clicks_V[order]) - clicks_V[order]
    # of items with equally many clicks, what comes before the first of them counts for all
    first = np.searchsorted(-clicks_V[order], -clicks_V[order], side="left")
    share = np.empty(len(clicks_V))
    share[order] = before[first] / max(clicks_V.sum(), 1)
    part = np.where(share < 1 / 3, 0, np.where(share < 2 / 3, 1, 2))
    return np.where(clicks_V > 0, part, 3)


def by_segment(
    ranks: dict[str, Ranks],
    groups: dict[str, dict[str, np.ndarray]],
    known: Mapping[str, Sequence[int]] | None = None,
    top_k: Sequence[int] = CUTOFFS,
) -> dict[str, dict[str, Any]]:
    """Return {group: {segment: {"targets": number, protocol: {metric: value}}}} with intervals.

    known: {protocol: the numbers k that the lists determine}, for ranks of lists.
    """
    found: dict[str, dict[str, Any]] = {}
    for group, of_group in groups.items():
        found[group] = {}
        for name, chosen in of_group.items():
            entry: dict[str, Any] = {"targets": int(chosen.sum())}
            for protocol, of_protocol in ranks.items() if chosen.any() else ():
                is_of_lists = protocol in (known or {})
                numbers = (known or {}).get(protocol, top_k)
                values = summarise(chosen_ranks(of_protocol, chosen), numbers)
                if is_of_lists:  # which say nothing of whole rankings
                    values = {name: x for name, x in values.items() if "@" in name}
                if numbers:
                    entry[protocol] = values
            found[group][name] = entry
    return found
