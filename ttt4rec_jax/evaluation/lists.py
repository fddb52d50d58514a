"""Ranks of the targets by lists of recommendations from any library. Imports no JAX."""

from typing import NamedTuple

import numpy as np
import polars as pl

from data_prep.errors import UserError
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.evaluation.tables import Rows
from ttt4rec_jax.metrics import Ranks

LEAST_SHARE = 0.5  # of the test users that need a list, and of the rows that need a known item


class Lists(NamedTuple):
    """What lists say about the targets of a set.

    ranks: of the targets [T], by the full catalogue; a target that is not listed is the last.
    lengths: the number of candidates in each list [T]. items: the first items of each list [T, K],
    0 beyond its end. counts: what was found in the lists.
    """

    ranks: Ranks
    lengths: np.ndarray
    items: np.ndarray
    counts: dict[str, int]


def rank_lists(rows: Rows, dataset: Dataset, targets: Targets, k: int, what: str) -> Lists:
    """Return what lists of recommendations say about a set's targets.

    Of a list, items that are not in the catalogue, items that the user clicked before the target,
    and repetitions of an item are left out, and the items behind them move up; each is counted.
    k: the number of first items in the result. what: the flag, for errors. Raises UserError if
    half of the users have no list, or half of the items are not in the data.
    """
    table, counts = rows_of_targets(rows, dataset, targets, what)
    num_targets = len(targets.positions)
    table = table.drop_nulls("item")
    unique = table.unique(["target", "item"], keep="first", maintain_order=True)
    counts["repeated_items"] = len(table) - len(unique)
    seen = seen_items(dataset, targets)
    unseen = unique.join(seen, on=["target", "item"], how="anti", maintain_order="left")
    counts["seen_items"] = len(unique) - len(unseen)
    target_n, item_n, key_n = (unseen[name].to_numpy() for name in ("target", "item", "key"))
    lengths = np.bincount(target_n, minlength=num_targets)
    counts["users_without_list"] = int((lengths == 0).sum())
    check_share(counts["users_without_list"], num_targets, "test users have no list", what)
    others = dataset.num_items - 1 - np.bincount(seen["target"].to_numpy(), minlength=num_targets)
    is_target_n = item_n == dataset.items[targets.positions][target_n]
    key_T = np.full(num_targets, np.nan)
    key_T[target_n[is_target_n]] = key_n[is_target_n]
    is_listed = ~np.isnan(key_T)
    above = np.bincount(target_n[key_n > key_T[target_n]], minlength=num_targets)
    equal = np.bincount(target_n[key_n == key_T[target_n]], minlength=num_targets)
    ranks = Ranks(np.where(is_listed, above, others), np.where(is_listed, equal - 1, 0), others)
    place_n = np.arange(len(target_n)) - (np.cumsum(lengths) - lengths)[target_n]
    first = np.zeros((num_targets, k), np.int32)
    is_first = place_n < k
    first[target_n[is_first], place_n[is_first]] = item_n[is_first]
    counts["shortest_list"] = int(lengths[lengths > 0].min())
    counts["longest_list"] = int(lengths.max())
    counts["targets_listed"] = int(is_listed.sum())
    return Lists(ranks, lengths, first, counts)


def check_share(missing: int, whole: int, text: str, what: str) -> None:
    """Raise UserError if half of the whole, or more, is missing."""
    if missing >= LEAST_SHARE * whole and missing:
        raise UserError(
            f"{what}: {missing:,} of {whole:,} {text}, expected fewer than half: a figure "
            "would mean little; compare the ids with those that the command candidates writes"
        )


def rows_of_targets(
    rows: Rows, dataset: Dataset, targets: Targets, what: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows of users with a target: target, item (null if unknown), key; the best first.

    Also returns counts of the other rows.
    """
    counts = {"rows": len(rows.table), "unknown_users": rows.unknown_users}
    if not counts["rows"]:
        raise UserError(f"{what}: holds no rows")
    if rows.unknown_items >= LEAST_SHARE * counts["rows"]:
        example = f", such as {rows.examples['item']!r}" if "item" in rows.examples else ""
        raise UserError(
            f"{what}: {rows.unknown_items:,} of {counts['rows']:,} rows have an item that is not "
            f"in the data{example}; give the ids that the command candidates writes"
        )
    target_of_user = pl.DataFrame({"user": targets.users, "target": range(len(targets.users))})
    known = rows.table.drop_nulls("user")
    table = known.join(target_of_user.cast(pl.Int64), on="user", how="inner", maintain_order="left")
    counts["users_without_target"] = known["user"].n_unique() - table["user"].n_unique()
    counts["unknown_items"] = table["item"].null_count()
    order = table.sort("target", "key", descending=[False, True], maintain_order=True)
    return order.select("target", "item", "key"), counts


def seen_items(dataset: Dataset, targets: Targets) -> pl.DataFrame:
    """Return the pairs (target, item) of items clicked before a target, without the target's own.

    They are no candidates in the full catalogue.
    """
    starts = dataset.offsets[targets.users]
    lengths = targets.positions - starts
    target_n = np.repeat(np.arange(len(lengths)), lengths)
    within_n = np.arange(len(target_n)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    item_n = dataset.items[starts[target_n] + within_n].astype(np.int64)
    is_other_n = item_n != dataset.items[targets.positions][target_n]
    return pl.DataFrame({"target": target_n[is_other_n], "item": item_n[is_other_n]}).unique()
