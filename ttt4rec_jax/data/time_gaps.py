"""Time gaps between clicks, for models that read them (--time). Imports no JAX.

A gap is one of GAP_CODES codes: 0 if it is unknown, as before a user's first click, else
1 + floor(2 log2(1 + seconds)), so that each doubling of a gap has two codes; the last one stands
for all gaps of more than 68 years.

A click that carries gaps is one number, so that it passes wherever an item does:
item + (V + 1) * (before + GAP_CODES * after). `before` is the code of the gap to the user's
previous click, `after` that to the next one, or to the request; it is 0 for --time=gaps.
"""

import math

import numpy as np

from data_prep.settings import UserError
from data_prep.times import AS_IN_FILE, NO_TIME, PER_SECOND, unit_of
from ttt4rec_jax.data.dataset import Dataset

GAP_CODES = 64
# the least number of whole seconds of each code from 1 on: (1 + s)^2 >= 2^(code - 1)
SECONDS = np.array([math.isqrt(2**power - 1) for power in range(GAP_CODES - 1)])
MOST_CODES = {"gaps": GAP_CODES, "request": GAP_CODES**2}
SAMPLED = 10_000  # times from which an unknown unit is recognised


def gap_codes(seconds: np.ndarray) -> np.ndarray:
    """Return the codes of gaps in whole seconds, at least 0."""
    return np.searchsorted(SECONDS, seconds, side="right").astype(np.int32)


def per_second(manifest: dict, times: np.ndarray) -> int | None:
    """Return how many units of a data set's times are a second; None if it has no times.

    times: as stored; those that are kept as in the file are in the unit that their size shows.
    """
    unit = manifest.get("time_unit", NO_TIME)
    if unit == AS_IN_FILE:
        unit = unit_of(times[:: len(times) // SAMPLED + 1].tolist())
    return PER_SECOND.get(unit)


def checked_times(dataset: Dataset, time: str) -> tuple[np.ndarray, int]:
    """Return a data set's times [E], and how many of their units are a second.

    Raise UserError if it has no times, or more items than clicks that carry gaps can tell apart.
    """
    most = 2**31 // MOST_CODES[time] - 1
    if dataset.num_items > most:
        raise UserError(
            f"--time={time}: found {dataset.num_items:,} items, expected at most {most:,}; "
            "filter the data (--item_core), or choose another --time"
        )
    times = dataset.timestamps
    unit = None if times is None else per_second(dataset.manifest, times)
    if times is None or unit is None:
        name = dataset.manifest["name"]
        raise UserError(
            f"--time={time}: the clicks of {name} have no times; leave it out, or name the column "
            "of times by --time_col"
        )
    return times, unit


def click_codes(dataset: Dataset, time: str) -> np.ndarray:
    """Return all clicks of a data set with their gaps [E], as --time=gaps or request reads them.

    The gap after a click is that to the next one of the same user, which is the target where the
    click is the last of a history: the time of the request is taken to be the time of the target.
    Raise UserError as checked_times does.
    """
    times, unit = checked_times(dataset, time)
    before = np.zeros(len(times), np.int32)
    seconds = np.diff(times) // unit
    before[1:] = gap_codes(np.maximum(seconds, 0))
    before[dataset.offsets[:-1]] = 0  # no user is without clicks
    codes = before
    if time == "request":
        codes = before + GAP_CODES * np.append(before[1:], 0).astype(np.int32)
    return (dataset.items + (dataset.num_items + 1) * codes).astype(np.int32)
