"""Times of clicks and of requests for this package; load_export/times.py has the code."""

from collections.abc import Sequence

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.data.time_gaps import SECONDS
from ttt4rec_jax.serving import load_export
from ttt4rec_jax.serving.load_export import Clock

__all__ = ["Clock", "TimedClicks"]


class TimedClicks(load_export.TimedClicks):
    """The clicks that a model reads, by the codes of data/time_gaps.py; wrong times: UserError."""

    error = UserError

    def __init__(
        self, time: str, num_items: int, gap_seconds: Sequence[int] | np.ndarray = SECONDS
    ):
        super().__init__(time, num_items, gap_seconds)
