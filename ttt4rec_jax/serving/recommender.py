"""Recommender: the k best items for histories and for live sessions, by the ids of the data.

Histories are scored as in the evaluation: `recommend` reads the last max_len clicks, starting from
the initial state. The state of a session of a recurrent model (TTT4Rec without learned positions)
depends on all of the user's clicks instead. The two agree as long as a history is no longer than
max_len; after that, the session has read clicks that are no longer in the window, in mini-batches
counted from the first click. `recommend(..., whole_history=True)` returns the result of a session
with the same clicks. All other models read the last max_len clicks again, in sessions too
(`is_constant_cost` tells which).

A model with --time needs the times of clicks (timed.py): in seconds since 1970, or as datetimes.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from data_prep.settings import UserError
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.load import load_run
from ttt4rec_jax.serving.engine import Engine, Ranked
from ttt4rec_jax.serving.filters import Request, make_request
from ttt4rec_jax.serving.load_export import Recommendation, set_bits
from ttt4rec_jax.serving.recommendations import recommendations
from ttt4rec_jax.serving.session import START_AGAIN, Session, from_bytes, locked, wrong
from ttt4rec_jax.serving.timed import TimedClicks

__all__ = ["Recommendation", "Recommender", "Session"]


class Recommender:
    """A trained model and its items. Any thread may call it: only sessions change, under a lock.

    It serves in the process that made it: JAX's threads do not survive a fork.

    is_constant_cost: whether the cost of a click in a session does not depend on the number of
    earlier clicks; if it does, each recommendation reads the last max_len clicks again.
    """

    def __init__(
        self,
        config: ModelConfig,
        graphdef: nnx.GraphDef,
        params: dict[str, Any],
        items: Catalogue,
        batch_sizes: Sequence[int] = (),
    ):
        """graphdef, params: the model of `config`, split by nnx.Param; params is a plain dict.

        batch_sizes: ascending numbers of rows to which batches are padded; () for powers of two.
        """
        self.config = config
        self.items = items
        self.params = params
        self.timed = TimedClicks(config.time, len(items))
        self.engine = Engine(graphdef, params, len(items), config.max_len, batch_sizes)
        self.is_constant_cost = self.engine.recurrent is not None

    @classmethod
    def load(
        cls, run_dir: str | Path, data_dir: str | Path = "", cache_dir: str | Path = ""
    ) -> "Recommender":
        """Load the best parameters of a run from its folder, on any machine. Raise UserError.

        data_dir, cache_dir: where to find the data of a run of an earlier version, whose folder has
        no catalogue.parquet.
        """
        return cls(*load_run(run_dir, data_dir, cache_dir))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of settings, parameters and items, which a restored session must match."""
        # without settings at their defaults, so that a setting added later does not change it
        fields = dataclasses.fields(self.config)
        changed = {
            f.name: value for f in fields if (value := getattr(self.config, f.name)) != f.default
        }
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([changed, list(map(str, self.items.ids))]).encode())
        leaves = jax.tree.leaves_with_path(self.params)
        for path, x in sorted(leaves, key=lambda leaf: jax.tree_util.keystr(leaf[0])):
            digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode())
            digest.update(np.ascontiguousarray(x).data)
        return digest.hexdigest()

    def recommend(
        self,
        histories: Iterable[Iterable[int | str]],
        k: int = 10,
        *,
        unknown: str = "error",
        whole_history: bool = False,
        times: Iterable[Iterable[Any]] | None = None,
        at: Any = None,
        **filters: Any,
    ) -> list[Recommendation]:
        """Return the k best items of each history, a list of ids in the order of the clicks.

        Args:
            times: for a model with --time, the times of each history's clicks.
            at: for one with --time=request, the time of the requests, or one for each history.
            unknown: "error" raises an error that lists the ids that are not in the data; "skip"
                ignores them.
            whole_history: read all clicks, as a session does, instead of the last max_len.
            filters: exclude_seen=True excludes all items of the history, even those before the last
                max_len clicks; exclude=ids; include_only=ids.

        Raises:
            UserError: if an argument is wrong.
        """
        if whole_history:
            self._check_recurrent()
        request = self._request(k, unknown, **filters)
        clicks, seconds = self._clicks(histories, times, unknown, "histories")
        asked = self.timed.check_at(at, len(clicks))
        read = list(map(self.timed.of_history, clicks, seconds, asked))
        blocked = request.after_clicks(clicks)
        ranked = self.engine.rank_histories(read, blocked, request.k, whole=whole_history)
        return self._recommendations(ranked, [not len(items) for items in clicks], request)

    # --- sessions

    def open_session(
        self,
        history: Iterable[int | str] = (),
        unknown: str = "error",
        times: Iterable[Any] | None = None,
    ) -> Session:
        """Return a session of a user who has already made the clicks of a history.

        times: those of the clicks, for a model with --time.
        """
        seen = np.zeros(self._num_seen_bytes, np.uint8)
        session = Session(self, self.engine.initial_state, seen, 0)
        if history := list(history):
            of_history = None if times is None else [times]
            self.observe_many([session], [history], unknown=unknown, times=of_history)
        return session

    def session_from_bytes(self, blob: bytes) -> Session:
        """Return the session that Session.to_bytes stored.

        Raise UserError if the bytes are damaged or belong to another model.
        """
        self.engine.check_process()
        state, seen, clicks, clock = from_bytes(
            blob,
            self.fingerprint,
            self.engine.initial_state,
            self.engine.max_state_size,
            self._num_seen_bytes,
        )
        if not self.engine.is_state(state):
            raise wrong("not a state of this model", START_AGAIN)
        return Session(self, state, seen, clicks, clock)

    def observe_many(
        self,
        sessions: Sequence[Session],
        clicks: Iterable[Any],
        k: int | None = None,
        *,
        unknown: str = "error",
        times: Iterable[Any] | None = None,
        at: Any = None,
        **filters: Any,
    ) -> list[Recommendation] | None:
        """Add clicks to many sessions at once: an id, or a list of ids, for each session.

        times, at: as in `recommend`; a time, or a list of times, for each session. With k, return
        their recommendations as recommend_many does, computed by the same device calls. Raise
        UserError if an argument is wrong; then no session has changed.
        """
        request = self._request(1 if k is None else k, unknown, **filters)
        lists = [[c] if isinstance(c, (str, int, np.integer)) else c for c in clicks]
        new_clicks, seconds = self._clicks(lists, times, unknown, "clicks")
        asked = self.timed.check_at(at, len(new_clicks))
        if len(new_clicks) != len(sessions):
            raise UserError(
                f"clicks: found {len(new_clicks)} for {len(sessions)} sessions; "
                "expected an id or a list of ids for each"
            )
        with locked(self, sessions):
            seen = [session.seen.copy() for session in sessions]
            for seen_W, items in zip(seen, new_clicks, strict=True):
                set_bits(seen_W[None], [items])
            states = [session.state for session in sessions]
            blocked = None if k is None else request.after_seen(seen)
            before = [session.clock for session in sessions]
            steps = list(map(self.timed.read, new_clicks, seconds, before))
            read = [clicks for clicks, _ in steps]
            clocks = [clock for _, clock in steps]
            if blocked is None or self.timed.time != "request":
                states, ranked = self.engine.advance(states, read, blocked, request.k)
            else:
                last = list(map(self.timed.asked, clocks, asked))
                states, _ = self.engine.advance(states, read)
                _, ranked = self.engine.advance(states, last, blocked, request.k)
            for session, state, seen_W, items, clock in zip(
                sessions, states, seen, new_clicks, clocks, strict=True
            ):
                session.state = state
                session.seen = seen_W
                session.clicks += len(items)
                session.clock = clock
            is_empty = [not session.clicks for session in sessions]
        return None if k is None else self._recommendations(ranked, is_empty, request)

    def recommend_many(
        self,
        sessions: Sequence[Session],
        k: int = 10,
        *,
        unknown: str = "error",
        at: Any = None,
        **filters: Any,
    ) -> list[Recommendation]:
        """Return the k best items of each session now. Arguments: those of `recommend`."""
        request = self._request(k, unknown, **filters)
        asked = self.timed.check_at(at, len(sessions))
        with locked(self, sessions):
            states = [session.state for session in sessions]
            is_empty = [not session.clicks for session in sessions]
            blocked = request.after_seen([session.seen for session in sessions])
            clocks = [session.clock for session in sessions]
        if self.timed.time == "request":
            last = list(map(self.timed.asked, clocks, asked))
            _, ranked = self.engine.advance(states, last, blocked, request.k)
        else:
            ranked = self.engine.rank_states(states, blocked, request.k)
        return self._recommendations(ranked, is_empty, request)

    # --- requests and recommendations

    @property
    def _num_seen_bytes(self) -> int:
        return -(-len(self.items) // 8)

    def _clicks(
        self, histories: Any, times: Any, unknown: str, what: str
    ) -> tuple[list[np.ndarray], list[list[float]]]:
        """Return the items of histories, and the times of these clicks. Raise UserError."""
        every = self.items.encode(histories, unknown, what, keep_unknown=True)
        every_time = self.timed.check(times, [len(items) for items in every])
        seconds = [
            [time for item, time in zip(items.tolist(), row, strict=True) if item] if row else []
            for items, row in zip(every, every_time, strict=True)
        ]
        return [items[items > 0] for items in every], seconds

    def _check_recurrent(self) -> None:
        """Raise UserError if the model cannot read whole histories."""
        if not self.is_constant_cost:
            why = (
                "has learned positions for max_len clicks only"
                if self.config.model == "ttt4rec"
                else "carries no state"
            )
            raise UserError(
                f"whole_history: {self.config.model} {why} and reads the last "
                f"{self.config.max_len} clicks; leave it out"
            )

    def _request(self, k: int, unknown: str, **filters: Any) -> Request:
        """Return the checked arguments of a call. Raise UserError if one is wrong."""
        self.engine.check_process()
        return make_request(self.items, k, unknown, **filters)

    def _recommendations(
        self, ranked: list[Ranked], is_empty: Sequence[bool], request: Request
    ) -> list[Recommendation]:
        return recommendations(self.items, ranked, is_empty, request.k, request.blocked_V)
