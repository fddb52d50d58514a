"""Times of clicks and of requests, for models that read them (--time).

The docstring of this package describes the clicks that such a model reads. With --time=request a
click is read once the gap after it is known, that is with the next click; until then a session
keeps it, and each request reads it for its own time, from the same state. So a request costs one
click, however long the history is.
"""

import datetime
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

NO_CLICKS = np.zeros(0, np.int32)
EXPECTED = "expected seconds since 1970, or a datetime"


class Clock(NamedTuple):
    """What a session keeps of time.

    last: the time of its last click in seconds, None before the first one. pending: with
    --time=request, the last click with the gap before it, which is still to be read; else 0.
    """

    last: float | None = None
    pending: int = 0


class TimedClicks:
    """The clicks that a model with --time=`time` reads; for "none", the items themselves.

    error: the type of error that wrong times raise.
    """

    error: type[ValueError] = ValueError

    def __init__(self, time: str, num_items: int, gap_seconds: Sequence[int] | np.ndarray):
        """gap_seconds: the least number of whole seconds of each code of a gap, from 1 on."""
        self.time = time
        self.rows = num_items + 1
        self.gap_seconds = np.asarray(gap_seconds, np.int64)
        self.after = self.rows * (len(self.gap_seconds) + 1)

    def read(
        self, items: np.ndarray, seconds: Sequence[float], clock: Clock
    ) -> tuple[np.ndarray, Clock]:
        """Return the clicks to read now, after more clicks of a session, and its next clock.

        Raise `error` if time runs backwards.
        """
        if self.time == "none" or not len(items):
            return items, clock
        first = seconds[0] if clock.last is None else clock.last
        before = self._codes(np.diff([first, *seconds]))
        before[0] *= clock.last is not None
        clicks = items + self.rows * before
        now = Clock(seconds[-1])
        if self.time == "gaps":
            return clicks.astype(np.int32), now
        # the gap after a click is that before the next one
        if clock.pending:
            clicks = np.concatenate([[clock.pending], clicks])
        else:
            before = before[1:]
        known = clicks[:-1] + self.after * before
        return known.astype(np.int32), now._replace(pending=int(clicks[-1]))

    def asked(self, clock: Clock, at: float | None) -> np.ndarray:
        """Return the click to read for a request at a time; none unless --time=request.

        Raise `error` if the time is missing, or before that of the last click.
        """
        if not clock.pending or clock.last is None:
            return NO_CLICKS
        if at is None:
            raise self.error(f"at: missing, but the model reads the time of a request; {EXPECTED}")
        after = self._codes(np.array([at - clock.last]), "at")
        return (clock.pending + self.after * after).astype(np.int32)

    def of_history(
        self, items: np.ndarray, seconds: Sequence[float], at: float | None
    ) -> np.ndarray:
        """Return a whole history as the model reads it for a request at a time."""
        clicks, clock = self.read(items, seconds, Clock())
        asked = self.asked(clock, at)
        return np.concatenate([clicks, asked]) if len(asked) else clicks

    def check(self, times: Any, counts: Sequence[int]) -> list[list[float]]:
        """Return the times of the clicks of each history, in seconds.

        times: a list of times for each; counts: the numbers of clicks. Raise `error`.
        """
        if self.time == "none":
            if times is not None:
                raise self.error("times: found some, but the model reads none; leave them out")
            return [[] for _ in counts]
        if times is None:
            raise self.error(
                "times: missing, but the model reads the times of clicks "
                f"(--time={self.time}); give one for each click"
            )
        lists = [[x] if _is_time(x) else list(self._listed(x)) for x in self._listed(times)]
        if [len(x) for x in lists] != list(counts):
            raise self.error(
                f"times: found {[len(x) for x in lists]} for {list(counts)} clicks; "
                "expected one for each click"
            )
        return [[self._seconds(x, "times") for x in row] for row in lists]

    def check_at(self, at: Any, count: int) -> list[float | None]:
        """Return the time of each request in seconds. at: one for all, or one for each."""
        if at is None:
            return [None] * count
        if self.time != "request":
            raise self.error("at: found a time, but the model does not read that of a request")
        each = [at] * count if _is_time(at) else list(self._listed(at, "at"))
        if len(each) != count:
            raise self.error(f"at: found {len(each)} times for {count} requests; expected one each")
        return [self._seconds(x, "at") for x in each]

    def _codes(self, gaps: np.ndarray, what: str = "times") -> np.ndarray:
        """Return the codes of gaps in seconds. Raise `error` for one that is negative."""
        if (gaps < 0).any():
            raise self.error(
                f"{what}: {-gaps.min():g} s before the previous click; expected ascending times"
            )
        return np.searchsorted(self.gap_seconds, np.floor(gaps), side="right")

    def _listed(self, x: Any, what: str = "times") -> Iterable[Any]:
        if isinstance(x, (str, bytes)) or not isinstance(x, Iterable):
            raise self.error(f"{what}: found {x!r}; {EXPECTED} for each")
        return x

    def _seconds(self, x: Any, what: str) -> float:
        if isinstance(x, datetime.datetime):
            return x.timestamp()
        if isinstance(x, bool) or not _is_time(x) or not math.isfinite(x):
            raise self.error(f"{what}: found {x!r}; {EXPECTED}")
        return float(x)


def _is_time(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating, datetime.datetime))
