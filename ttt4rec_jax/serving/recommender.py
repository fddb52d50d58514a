"""Recommender: the k best items for histories and for live sessions, by the ids of the data.

Histories are scored as in the evaluation: `recommend` reads the last max_len clicks, starting from
the initial state. The state of a session of a recurrent model (TTT4Rec without learned positions)
depends on all of the user's clicks instead. The two agree as long as a history is no longer than
max_len; after that, the session has read clicks that are no longer in the window, in mini-batches
counted from the first click. `recommend(..., whole_history=True)` returns the result of a session
with the same clicks. All other models read the last max_len clicks again, in sessions too
(`is_constant_cost` tells which).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from data_prep.settings import UserError
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.load import load_run
from ttt4rec_jax.serving.engine import Blocked, Engine, Ranked
from ttt4rec_jax.serving.load_export import Recommendation, set_bits
from ttt4rec_jax.serving.session import START_AGAIN, Session, from_bytes, locked, wrong
from ttt4rec_jax.serving.top_k import pack_mask

__all__ = ["Recommendation", "Recommender", "Session"]


class Request(NamedTuple):
    """How many items a call asks for, and which ones it excludes."""

    k: int
    exclude_seen: bool
    blocked_V: np.ndarray


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
        **filters: Any,
    ) -> list[Recommendation]:
        """Return the k best items of each history, a list of ids in the order of the clicks.

        Args:
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
        clicks = self.items.encode(histories, unknown)
        shared_W = pack_mask(request.blocked_V)

        def blocked(part: slice) -> np.ndarray:
            blocked_BxW = np.repeat(shared_W[None], len(clicks[part]), 0)
            if request.exclude_seen:
                set_bits(blocked_BxW, clicks[part])
            return blocked_BxW

        ranked = self.engine.rank_histories(clicks, blocked, request.k, whole=whole_history)
        return self._recommendations(ranked, [not len(items) for items in clicks], request)

    # --- sessions

    def open_session(self, history: Iterable[int | str] = (), unknown: str = "error") -> Session:
        """Return a session of a user who has already made the clicks of a history."""
        seen = np.zeros(self._num_seen_bytes, np.uint8)
        session = Session(self, self.engine.initial_state, seen, 0)
        if history := list(history):
            self.observe_many([session], [history], unknown=unknown)
        return session

    def session_from_bytes(self, blob: bytes) -> Session:
        """Return the session that Session.to_bytes stored.

        Raise UserError if the bytes are damaged or belong to another model.
        """
        self.engine.check_process()
        state, seen, clicks = from_bytes(
            blob,
            self.fingerprint,
            self.engine.initial_state,
            self.engine.max_state_size,
            self._num_seen_bytes,
        )
        if not self.engine.is_state(state):
            raise wrong("not a state of this model", START_AGAIN)
        return Session(self, state, seen, clicks)

    def observe_many(
        self,
        sessions: Sequence[Session],
        clicks: Iterable[Any],
        k: int | None = None,
        *,
        unknown: str = "error",
        **filters: Any,
    ) -> list[Recommendation] | None:
        """Add clicks to many sessions at once: an id, or a list of ids, for each session.

        With k, return their recommendations as recommend_many does, computed by the same device
        calls. Raise UserError if an argument is wrong; then no session has changed.
        """
        request = self._request(1 if k is None else k, unknown, **filters)
        lists = [[c] if isinstance(c, (str, int, np.integer)) else c for c in clicks]
        new_clicks = self.items.encode(lists, unknown, "clicks")
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
            blocked = None if k is None else self._blocked(seen, request)
            states, ranked = self.engine.advance(states, new_clicks, blocked, request.k)
            for session, state, seen_W, items in zip(
                sessions, states, seen, new_clicks, strict=True
            ):
                session.state = state
                session.seen = seen_W
                session.clicks += len(items)
            is_empty = [not session.clicks for session in sessions]
        return None if k is None else self._recommendations(ranked, is_empty, request)

    def recommend_many(
        self, sessions: Sequence[Session], k: int = 10, *, unknown: str = "error", **filters: Any
    ) -> list[Recommendation]:
        """Return the k best items of each session now. unknown, filters: those of `recommend`."""
        request = self._request(k, unknown, **filters)
        with locked(self, sessions):
            states = [session.state for session in sessions]
            is_empty = [not session.clicks for session in sessions]
            blocked = self._blocked([session.seen for session in sessions], request)
        ranked = self.engine.rank_states(states, blocked, request.k)
        return self._recommendations(ranked, is_empty, request)

    # --- requests and recommendations

    @property
    def _num_seen_bytes(self) -> int:
        return -(-len(self.items) // 8)

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

    def _request(
        self,
        k: int,
        unknown: str,
        *,
        exclude_seen: bool = True,
        exclude: Iterable[int | str] = (),
        include_only: Iterable[int | str] | None = None,
    ) -> Request:
        """Return the checked arguments of a call. Raise UserError if one is wrong."""
        self.engine.check_process()
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise UserError(f"k: found {k!r}, expected a whole number of at least 1")
        blocked_V = np.zeros(len(self.items), bool)
        if include_only is not None:
            (included,) = self.items.encode([include_only], unknown, "include_only")
            blocked_V[:] = True
            blocked_V[included - 1] = False
        (excluded,) = self.items.encode([exclude], unknown, "exclude")
        blocked_V[excluded - 1] = True
        return Request(int(k), exclude_seen, blocked_V)

    def _blocked(self, seen: list[np.ndarray], request: Request) -> Blocked:
        """Return the function that makes the bit masks of sessions. seen: their seen items."""
        shared_W = pack_mask(request.blocked_V)

        def blocked(part: slice) -> np.ndarray:
            blocked_BxW = np.repeat(shared_W[None], len(seen[part]), 0)
            if request.exclude_seen:
                seen_BxW = np.stack(seen[part])
                blocked_BxW[:, : seen_BxW.shape[1]] |= seen_BxW
            return blocked_BxW

        return blocked

    def _recommendations(
        self, ranked: list[Ranked], is_empty: Sequence[bool], request: Request
    ) -> list[Recommendation]:
        """Return the best items by their ids; the most popular ones where `is_empty`."""
        recommendations: list[Recommendation] = []
        popular = self._popular(request) if any(is_empty) else None
        for batch in ranked:
            scores_Bxk = np.asarray(batch.scores)
            rows_Bxk = (np.asarray(batch.items) - 1).tolist()
            is_nan_B = np.isnan(scores_Bxk).any(1)
            for i, count in enumerate(np.minimum(batch.num_allowed, request.k).tolist()):
                if popular is not None and is_empty[len(recommendations)]:
                    recommendations.append(popular)
                    continue
                if is_nan_B[i]:
                    raise UserError(
                        "the model's score of an item is NaN; its checkpoint is damaged; "
                        "copy the run folder again"
                    )
                best = self._recommendation(rows_Bxk[i][:count], scores_Bxk[i, :count], "model")
                recommendations.append(best)
        return recommendations

    def _popular(self, request: Request) -> Recommendation:
        """Return the items with the most training clicks."""
        items = self.items.most_clicked
        rows = items[~request.blocked_V[items - 1]][: request.k] - 1
        scores = self.items.clicks[rows].astype(np.float32)
        return self._recommendation(rows.tolist(), scores, "popularity")

    def _recommendation(self, rows: list[int], scores: np.ndarray, source: str) -> Recommendation:
        """Return a recommendation of the items in some rows of the catalogue."""
        ids = [self.items.ids[row] for row in rows]
        titles = self.items.titles and [self.items.titles[row] for row in rows]
        return Recommendation(ids, scores, titles, source)
