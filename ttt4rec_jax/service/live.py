"""The state of each session for one model: in memory, or computed again from the store."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ttt4rec_jax.service import times
from ttt4rec_jax.service.models import Model
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.settings import SAVE_EVERY
from ttt4rec_jax.service.store import Clicks, Saved, Store
from ttt4rec_jax.serving.load_export import set_bits
from ttt4rec_jax.serving.recurrent import CHUNK_SIZES
from ttt4rec_jax.serving.timed import Clock


class Live(NamedTuple):
    """A session after `clicks` clicks: state [S], items seen as a bit mask [V/8].

    saved: after how many clicks its state was last saved in the store. clock: what a model with
    --time keeps of the times of clicks.
    """

    clicks: int
    state: np.ndarray
    seen: np.ndarray
    saved: int
    clock: Clock = Clock()


class LiveSessions:
    """A model's states of the sessions that were used last.

    An entry is only ever a function of the clicks that the store holds: it may be behind them, if
    another process has added some, and is then brought up to date.
    """

    def __init__(self, model: Model, store: Store, capacity: int):
        self.model = model
        self.store = store
        self.capacity = capacity
        self.entries: collections.OrderedDict[str, Live] = collections.OrderedDict()
        num_seen_bytes = -(-len(model.items) // 8)
        self.first = Live(0, model.initial_state, np.zeros(num_seen_bytes, np.uint8), 0)

    def find(self, session: str, count: int) -> tuple[Live, np.ndarray]:
        """Return a state of a session of `count` clicks, and the clicks that it still lacks.

        Raises Problem if the store has no state of this model, and not all clicks any more, or not
        all times that the model reads.
        """
        live = self.entries.get(session)
        if live and live.clicks == count:
            return live, times.NO_CLICKS
        if not live or live.clicks > count:  # more clicks than the store has: of a store restored
            live = self._saved(session, count) if count else self.first
        if live.clicks == count:
            return live, times.NO_CLICKS
        kept = self.store.clicks(session, live.clicks, count)
        between = clicks_between(kept, live.clicks, count)
        if between is None:
            raise Problem(
                "stale-session",
                f"The session has {count:,} clicks, of which the first are no longer kept, and no "
                "state of this model; open a new session.",
            )
        ids, seconds = between
        (items,) = self.model.items.encode([ids], "skip", keep_unknown=True)
        lacking = times.join(items, np.array(seconds))[items > 0]
        if self.model.timed.time != "none" and np.isnan(lacking["time"]).any():
            raise Problem(
                "stale-session",
                "The session has clicks of an earlier version, which kept no times, and the model "
                "reads them; open a new session.",
            )
        return live, lacking

    def caught_up(self, lives: Sequence[Live], lacking: Sequence[np.ndarray]) -> list[Live]:
        """Return states after the clicks that they lack, in few calls of the device."""
        groups: dict[int, list[int]] = {}  # like lengths together: few are padded to many
        caught_up = list(lives)
        reads = []
        for row, (live, clicks) in enumerate(zip(lives, lacking, strict=True)):
            read, clock = times.read(self.model.timed, clicks, live.clock)
            reads.append(read)
            if len(clicks):
                seen = with_items(live.seen, clicks["item"])
                caught_up[row] = live._replace(seen=seen, clock=clock)
            if len(read):
                size = next((size for size in CHUNK_SIZES if len(read) <= size), 0)
                groups.setdefault(size, []).append(row)
        for rows in groups.values():
            after = self.model.advance([lives[i].state for i in rows], [reads[i] for i in rows])
            for row, state in zip(rows, after, strict=True):
                caught_up[row] = caught_up[row]._replace(state=state)
        return caught_up

    def keep(self, session: str, live: Live) -> Saved | None:
        """Keep a state that the store's clicks lead to; return it if it should be saved, too."""
        to_save = None
        if live.clicks - live.saved >= SAVE_EVERY:
            live = live._replace(saved=live.clicks)
            state = _little_endian(live.state).tobytes()
            clock = times.clock_to_bytes(self.model.timed, live.clock)
            to_save = Saved(live.clicks, clock + state, live.seen.tobytes())
        self.entries[session] = live
        self.entries.move_to_end(session)
        if len(self.entries) > self.capacity:
            self.entries.popitem(last=False)
        return to_save

    def drop(self, session: str) -> None:
        """Forget a session."""
        self.entries.pop(session, None)

    def _saved(self, session: str, count: int) -> Live:
        """Return the state that the store has, or the first one."""
        saved = self.store.saved(session, self.model.version)
        if saved is None or saved.clicks > count or len(saved.seen) != len(self.first.seen):
            return self.first
        kind = self.model.initial_state.dtype
        clock, content = times.split_clock(self.model.timed, saved.state)
        state = np.frombuffer(content, kind.newbyteorder("<")).astype(kind)
        seen = np.frombuffer(saved.seen, np.uint8)
        return Live(saved.clicks, state, seen, saved.clicks, clock)


def clicks_between(
    kept: list[Clicks], start: int, stop: int
) -> tuple[list[str], list[float]] | None:
    """Return the ids and times of clicks start..stop-1; None if some are not kept."""
    ids: list[str] = []
    seconds: list[float] = []
    for first, some, their_times in kept:
        if first > start + len(ids):
            return None
        part = slice(start + len(ids) - first, stop - first)
        ids += some[part]
        seconds += (their_times or [times.UNKNOWN] * len(some))[part]
    return (ids, seconds) if len(ids) == stop - start else None


def with_items(seen: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return a copy of a bit mask with items added."""
    seen = seen.copy()
    set_bits(seen[None], [items])
    return seen


def _little_endian(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder("<"), copy=False)
