"""The state of each session for one model: in memory, or computed again from the store."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ttt4rec_jax.service.models import NO_CLICKS, Model
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.settings import SAVE_EVERY
from ttt4rec_jax.service.store import Clicks, Saved, Store
from ttt4rec_jax.serving.load_export import set_bits
from ttt4rec_jax.serving.recurrent import CHUNK_SIZES


class Live(NamedTuple):
    """A session after `clicks` clicks: state [S], items seen as a bit mask [V/8].

    saved: after how many clicks its state was last saved in the store.
    """

    clicks: int
    state: np.ndarray
    seen: np.ndarray
    saved: int


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

        Raises Problem if the store has no state of this model, and not all clicks any more.
        """
        live = self.entries.get(session)
        if live and live.clicks == count:
            return live, NO_CLICKS
        if not live or live.clicks > count:  # more clicks than the store has: of a store restored
            live = self._saved(session, count) if count else self.first
        if live.clicks == count:
            return live, NO_CLICKS
        kept = self.store.clicks(session, live.clicks, count)
        ids = ids_between(kept, live.clicks, count)
        if ids is None:
            raise Problem(
                "stale-session",
                f"The session has {count:,} clicks, of which the first are no longer kept, and no "
                "state of this model; open a new session.",
            )
        (lacking,) = self.model.items.encode([ids], "skip")
        return live, lacking

    def caught_up(self, lives: Sequence[Live], lacking: Sequence[np.ndarray]) -> list[Live]:
        """Return states after the clicks that they lack, in few calls of the device."""
        groups: dict[int, list[int]] = {}  # like lengths together: few are padded to many
        for row, items in enumerate(lacking):
            if len(items):
                size = next((size for size in CHUNK_SIZES if len(items) <= size), 0)
                groups.setdefault(size, []).append(row)
        caught_up = list(lives)
        for rows in groups.values():
            after = self.model.advance([lives[i].state for i in rows], [lacking[i] for i in rows])
            for row, state in zip(rows, after, strict=True):
                seen = with_items(lives[row].seen, lacking[row])
                caught_up[row] = lives[row]._replace(state=state, seen=seen)
        return caught_up

    def keep(self, session: str, live: Live) -> Saved | None:
        """Keep a state that the store's clicks lead to; return it if it should be saved, too."""
        to_save = None
        if live.clicks - live.saved >= SAVE_EVERY:
            live = live._replace(saved=live.clicks)
            to_save = Saved(live.clicks, _little_endian(live.state).tobytes(), live.seen.tobytes())
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
        state = np.frombuffer(saved.state, kind.newbyteorder("<")).astype(kind)
        seen = np.frombuffer(saved.seen, np.uint8)
        return Live(saved.clicks, state, seen, saved.clicks)


def ids_between(kept: list[Clicks], start: int, stop: int) -> list[str] | None:
    """Return the ids of clicks start..stop-1; None if some are not kept."""
    ids: list[str] = []
    for first, some in kept:
        if first > start + len(ids):
            return None
        ids += some[start + len(ids) - first : stop - first]
    return ids if len(ids) == stop - start else None


def with_items(seen: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return a copy of a bit mask with items added."""
    seen = seen.copy()
    set_bits(seen[None], [items])
    return seen


def _little_endian(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder("<"), copy=False)
