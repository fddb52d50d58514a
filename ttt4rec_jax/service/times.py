"""Clicks of a session with their times, and how a model reads them.

Times are in seconds since 1970. A click whose time is before that of the session's previous click
is read as one at the same time: clocks differ, and no click may be lost for it.
"""

import struct

import numpy as np

from ttt4rec_jax.serving.timed import Clock, TimedClicks

CLICK = np.dtype([("item", np.int32), ("time", np.float64)])
NO_CLICKS = np.zeros(0, CLICK)
UNKNOWN = float("nan")  # the time of a click that an earlier version stored
CLOCK = struct.Struct("<dq")


def join(items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return clicks on items at times, as an array of CLICK."""
    clicks = np.empty(len(items), CLICK)
    clicks["item"] = items
    clicks["time"] = times
    return clicks


def read(timed: TimedClicks, clicks: np.ndarray, clock: Clock) -> tuple[np.ndarray, Clock]:
    """Return more clicks of a session as its model reads them now, and the session's next clock."""
    if timed.time == "none" or not len(clicks):
        return clicks["item"], clock
    first = clicks["time"][0] if clock.last is None else clock.last
    seconds = np.maximum.accumulate(np.maximum(clicks["time"], first))
    return timed.read(clicks["item"], seconds.tolist(), clock)


def asked(timed: TimedClicks, clock: Clock, at: float) -> np.ndarray:
    """Return the click to read for a list at a time; none unless --time=request."""
    return timed.asked(clock, at if clock.last is None else max(at, clock.last))


def clock_to_bytes(timed: TimedClicks, clock: Clock) -> bytes:
    """Return a session's clock as bytes, which precede those of its state; b"" without --time."""
    if timed.time == "none":
        return b""
    return CLOCK.pack(UNKNOWN if clock.last is None else clock.last, clock.pending)


def split_clock(timed: TimedClicks, content: bytes) -> tuple[Clock, bytes]:
    """Return a clock, and the bytes of the state that follow those of `clock_to_bytes`."""
    if timed.time == "none":
        return Clock(), content
    last, pending = CLOCK.unpack_from(content)
    return Clock(None if last != last else last, pending), content[CLOCK.size :]
