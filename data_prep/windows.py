"""The windows of --split=rolling: each is a split by time of the clicks that precede its end.

With W windows, the clicks after the share validation_time, in time order, are cut into W + 1 parts
of equally many clicks. Window w = 1..W trains on the clicks before part w, validates on that part,
and is tested on the next one; later clicks do not exist for it.
"""

from typing import NamedTuple

import polars as pl

from data_prep.settings import DataConfig, UserError
from data_prep.split import time_of_share


class Window(NamedTuple):
    """The times at which a window's validation, its test part, and the clicks after it begin."""

    validation: int
    test: int
    end: int


def check_named(config: DataConfig) -> None:
    """Raise UserError if the settings ask for all windows of a rolling split at once."""
    if config.split == "rolling" and not config.window:
        raise UserError(
            "--window: data are prepared for one window at a time; name one of 1 to "
            f"{config.windows}, as in --window=1"
        )


def window_of(kept: pl.LazyFrame, config: DataConfig) -> Window:
    """Return the times of the window that the settings name, by all clicks before the filters.

    kept: clicks with a column time. Raises UserError if there are none.
    """
    times = kept.select("time").collect(engine="streaming")["time"].to_numpy()
    if not len(times):
        raise UserError("--split=rolling: no clicks are left; use more data or other conditions")
    bounds = range(config.window - 1, config.window + 2)
    return Window(*(time_of_share(times, _share(config, bound)) for bound in bounds))


def _share(config: DataConfig, bound: int) -> float:
    """Return the share of all clicks that precede a bound: 0, the first part's, to W + 1, 1."""
    left = config.windows + 1 - bound
    return 1 - (1 - config.validation_time) * left / (config.windows + 1)
