"""What a careful person checks first about prepared data: counts, repeats, ties, and notices."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from data_prep import ties
from data_prep.index import clicks_per_item, is_training
from data_prep.split import is_new
from data_prep.times import AS_IN_FILE, NO_TIME, PER_SECOND, unit_of

# what files write where a value is missing
NULL_WORDS = (
    "",
    "na",
    "n/a",
    "nan",
    "null",
    "none",
    "nil",
    "\\n",
    "unknown",
    "undefined",
    "-",
    "-1",
)
LARGE_SHARE = 0.1  # of all clicks, by one id
MANY_IDS = 20  # fewer ids may well have such shares
TIMES_MEDIAN = 20
# Share of the pairs with equal times whose order follows the item ids. It is 100% in Amazon Beauty,
# 74% in a sample of Electronics, 56% in MovieLens-1M, and about half in data without such an order.
SORTED_SHARE = 0.7
FEW_PAIRS = 100


def summarise(
    arrays: dict[str, np.ndarray], is_first: np.ndarray, counts: np.ndarray, unit: str
) -> dict[str, Any]:
    """Return the figures of prepared data, for the manifest.

    arrays: those of the prepared folder; is_first: see index.py. counts: the clicks on each item
    [V]. unit: of the times.
    """
    items = arrays["items"]
    offsets = arrays["offsets"]
    times = arrays["timestamps"]
    clicks = len(items)
    figures: dict[str, Any] = {
        "median_history": float(np.median(np.diff(offsets))),
        "repeated_share": round(1 - np.count_nonzero(is_first) / clicks, 4),
    }
    if unit != NO_TIME:
        tied = ties.count(items, times, offsets)
        low = int(times.min())
        high = int(times.max())
        figures |= {
            "tied_share": round(tied.clicks / clicks, 4),
            "duplicates": tied.duplicates,
            "tied_pairs": tied.pairs,
            "tied_pairs_ascending": tied.ascending,
            "time_span": [low, high],
            "time_span_text": span_text(low, high, unit),
        }
    held_out = np.flatnonzero(~is_training(offsets, arrays["train_ends"]))
    is_known = counts > clicks_per_item(items[held_out], len(counts))
    figures["users_without_training"] = int((arrays["train_ends"] == offsets[:-1]).sum())
    for part in ("validation", "test"):
        users = np.searchsorted(offsets, arrays[f"{part}_targets"], side="right") - 1
        figures[f"{part}_new_users"] = int(is_new(offsets, arrays["train_ends"], users).sum())
        figures[f"{part}_cold_targets"] = int(
            (~is_known[items[arrays[f"{part}_targets"]] - 1]).sum()
        )
        negatives = arrays[f"{part}_negatives"]
        figures[f"{part}_without_negatives"] = int((negatives[:, 0] == 0).sum())
    return figures


def span_text(low: int, high: int, unit: str) -> str:
    """Return the first and the last time in words; integers in the unit that their size shows."""
    unit = unit_of([low, high]) if unit == AS_IN_FILE else unit
    seconds = [time / PER_SECOND[unit] for time in (low, high)]
    if min(seconds) < 1e8:  # before 1973: not times since 1970
        return f"{low:,} to {high:,}"
    first, last = (datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%d %H:%M") for s in seconds)
    return f"{first} to {last}"


def notices(
    columns: dict[str, Any],
    tables: dict[str, pl.DataFrame],
    counts: dict[str, np.ndarray],
) -> list[str]:
    """Return what a user should look at: ids that stand for a missing value, or for many users.

    columns: the names of those that were read. counts: the clicks of each user and on each item.
    """
    found = []
    clicks = int(counts["item"].sum())
    for role, of_role in counts.items():
        ids = tables[f"{role}s"]["id"]
        column = columns.get(role, role)
        texts = ids.cast(pl.String).str.to_lowercase()
        asked = set(texts.is_in(NULL_WORDS).arg_true().to_list())
        largest = int(of_role.argmax())
        middle = float(np.median(of_role))
        is_extreme = of_role[largest] > LARGE_SHARE * clicks and len(ids) >= MANY_IDS
        if is_extreme and of_role[largest] > TIMES_MEDIAN * middle:
            asked.add(largest)
        for row in sorted(asked):
            share = f"{of_role[row]:,} of {clicks:,} clicks ({of_role[row] / clicks:.0%})"
            value = str(ids[row]) if ids.dtype.is_integer() else _text(str(ids[row]))
            found.append(
                f"the {role} {value} has {share}; is it a missing value or a robot? "
                f'--where="{_quoted(column)} <> {value}" leaves it out'
            )
    return found


def lines(manifest: dict[str, Any]) -> list[str]:
    """Return lines of text that describe prepared data, from their manifest."""
    counts = manifest["counts"]
    rows = manifest["rows"]
    figures = manifest["summary"]
    dropped = {
        "skipped": rows["skipped"],
        "not met by --where": rows["where"],
        "repeats (--dedup)": rows["dedup"],
        "after the window": rows.get("later", 0),
        "by the cores": rows["cores"],
    }
    read = f"{rows['read']:,} rows read" + "".join(
        f", {count:,} {name}" for name, count in dropped.items() if count
    )
    columns = manifest.get("columns", {})
    if columns:
        time = " and ".join(columns["time"]) or "none (the order of the rows)"
        read += f"; columns user={columns['user']}, item={columns['item']}, time={time}"
    text = [
        f"{counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions",
        read,
        f"median history {figures['median_history']:g}, repeated clicks "
        f"{figures['repeated_share']:.1%}",
    ]
    if "time_span" in figures:
        text[-1] += f", equal times {figures['tied_share']:.1%}; {figures['time_span_text']}"
    return [*text, *(f"notice: {notice}" for notice in notices_of(manifest))]


def notices_of(manifest: dict[str, Any]) -> list[str]:
    """Return the notices of a manifest, with those that follow from its figures."""
    figures = manifest["summary"]
    found = list(manifest["notices"])
    if duplicates := figures.get("duplicates"):
        found.append(
            f"{duplicates:,} clicks are exact duplicates (user, item and time) of another; "
            "--dedup=consecutive or all drops them"
        )
    if pairs := figures.get("tied_pairs"):
        share = figures["tied_pairs_ascending"] / pairs
        if pairs >= FEW_PAIRS and not SORTED_SHARE > share > 1 - SORTED_SHARE:
            found.append(
                f"{max(share, 1 - share):.0%} of {pairs:,} neighbouring clicks with equal times "
                "are in the order of their item ids, which a model can learn; --ties=shuffled "
                "removes it"
            )
    if without := figures["users_without_training"]:
        found.append(f"{without:,} users have no training click; {_new_users(figures)}")
    for part in ("validation", "test"):
        targets = manifest["counts"][part]
        if few := figures[f"{part}_without_negatives"]:
            found.append(
                f"{few:,} of {targets:,} {part} users leave fewer unclicked items than "
                f"--eval_negatives={manifest['negatives']['number']}; the sampled evaluation "
                "leaves them out, the full catalogue ranks them"
            )
        if cold := figures[f"{part}_cold_targets"]:
            found.append(
                f"{cold:,} of {targets:,} {part} targets are items without training clicks"
            )
    return found


def _new_users(figures: dict[str, Any]) -> str:
    """Return which targets users without a training click have."""
    counts = {part: figures.get(f"{part}_new_users", 0) for part in ("validation", "test")}
    have = [f"{count:,} have a {part} target" for part, count in counts.items() if count]
    return "of these, " + " and ".join(have) if have else "they are not evaluated"


def _text(value: str) -> str:
    """Return a text as it is written in SQL."""
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _quoted(column: str) -> str:
    return column if column.isidentifier() else f'"{column}"'
