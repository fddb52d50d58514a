"""Recommender: the k best items for histories, as evaluation scores them, and for live sessions (session.py).

What a history says. Evaluation reads the last max_len clicks from an empty state, and so does
`recommend`. A session of a model with a state (TTT4Rec without learned positions) carries the
user's whole past instead. Both agree while the history is no longer than max_len; beyond, a session
has read clicks that a window no longer holds, in mini-batches counted from the first click.
`recommend(..., whole_history=True)` is what a session that saw the same clicks gives. All other
models read the
last max_len clicks anew, in sessions too: `Recommender.is_constant_cost` tells which.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from data_prep.settings import UserError
from ttt4rec_jax.config import MODELS, ModelConfig
from ttt4rec_jax.data.batches import lengths_read
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.load import load_run
from ttt4rec_jax.serving import top_k
from ttt4rec_jax.serving.session import Session, Stream, from_bytes, locked
from ttt4rec_jax.serving.top_k import fill, padded

SCORES_AT_ONCE = 2**24  # of users x items: 64 MB
CLICKS_AT_ONCE = 2**15  # of whole histories that are read at once
NOTHING = np.zeros(0, np.int32)


class Recommendation(NamedTuple):
    """Items from the best on: their ids and titles (None where the data has none), scores, and where the scores come from.

    source: "model", or "popularity" for an empty history: scores are then numbers of training
    clicks. There are fewer than k items where fewer may be recommended.
    """

    ids: list
    scores: np.ndarray
    titles: list | None
    source: str


class Rule(NamedTuple):
    """What a call asks for: how many items, and which not."""

    k: int
    exclude_seen: bool
    blocked_V: np.ndarray


class Recommender:
    """A trained model and its items. Everything but sessions is immutable, and those lock themselves: any thread may call.

    is_constant_cost: whether a click of a session costs the same however many came before; else,
    the last max_len clicks are read anew for each recommendation.
    """

    def __init__(self, config: ModelConfig, graphdef, params, items: Catalogue):
        """graphdef, params: of the model that config names, split by nnx.Param; params a plain dict."""
        self.config = config
        self.items = items
        self.params = params
        self.is_separable = MODELS[config.model].separable
        self.is_constant_cost = getattr(nnx.merge(graphdef, params), "is_stream", False)
        item_NxC = ranking.item_tiles(len(items))
        self._slots = item_NxC.size
        self._rows = 1 << min(ranking.TILE, max(SCORES_AT_ONCE // self._slots, 1)).bit_length() - 1

        def item_tiles(params):
            return jax.lax.map(nnx.merge(graphdef, params).item_vectors, item_NxC)

        def encode(params, history_BxL, length_B):
            return nnx.merge(graphdef, params).encode(history_BxL, length_B)

        def top_of_histories(params, history_BxL, length_B, blocked_BxW, k):
            return top_k.of_histories(
                nnx.merge(graphdef, params), history_BxL, length_B, blocked_BxW, len(items), k
            )

        self._item_NxCxD = jax.jit(item_tiles)(params) if self.is_separable else None
        self._encode = jax.jit(encode)
        self._top_of_users = jax.jit(top_k.of_users, static_argnames="k")
        self._top_of_histories = jax.jit(top_of_histories, static_argnames="k")
        self._stream = Stream(graphdef, params) if self.is_constant_cost else None

    @classmethod
    def load(
        cls, run_dir: str | Path, data_dir: str | Path = "", cache_dir: str | Path = ""
    ) -> "Recommender":
        """The best parameters of the run in a folder, which may have been copied here. Raises UserError.

        data_dir, cache_dir: where to find the data of a run of an earlier version, which left no
        catalogue.parquet.
        """
        return cls(*load_run(run_dir, data_dir, cache_dir))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names the model: its settings, parameters and items. Sessions are restored into the same alone."""
        # without the settings left at their defaults, so that an option added later changes nothing
        fields = dataclasses.fields(self.config)
        changed = {
            f.name: value for f in fields if (value := getattr(self.config, f.name)) != f.default
        }
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([changed, list(map(str, self.items.ids))]).encode())
        for path, x in sorted(
            jax.tree.leaves_with_path(self.params), key=lambda leaf: jax.tree_util.keystr(leaf[0])
        ):
            digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode())
            digest.update(np.ascontiguousarray(x).data)
        return digest.hexdigest()

    def recommend(
        self,
        histories: Iterable[Iterable],
        k: int = 10,
        *,
        unknown: str = "error",
        whole_history: bool = False,
        **filters,
    ) -> list[Recommendation]:
        """The k best items of each history, a list of ids in the order of the clicks.

        Args: unknown: ids that the data does not have are an error that lists them, or are left out
        ("skip").
            whole_history: read from the first click on, as a session does, instead of the last
            max_len.
            filters: exclude_seen=True leaves out what stands in the history, before the last
            max_len clicks too; exclude=ids; include_only=ids.
        Raises UserError.
        """
        if whole_history and not self._stream:
            why = (
                "has positions learned for max_len places"
                if self.config.model == "ttt4rec"
                else "carries no state"
            )
            what = f"{self.config.model} {why} and reads the last {self.config.max_len} clicks"
            raise UserError(f"whole_history: {what}; leave it out")
        rule = self._rule(k, unknown, **filters)
        found = self.items.encode(histories, unknown)
        windows = self._windows(found)
        users = None
        if self.is_separable:
            users = self._encode_whole(found) if whole_history else self._encode_windows(*windows)

        shared_W = top_k.in_tiles(rule.blocked_V)

        def blocked(part: slice) -> np.ndarray:
            bits_BxW = np.repeat(shared_W[None], len(found[part]), 0)
            if rule.exclude_seen:
                top_k.mark(bits_BxW, found[part])
            return bits_BxW

        return self._named(self._best(windows, users, blocked, rule.k), windows[1] == 0, rule)

    # --- sessions

    def open_session(self, history: Iterable = (), unknown: str = "error") -> Session:
        """A session of a user who has made the clicks of a history already."""
        session = Session(self, self._first_memory, np.zeros(-(-len(self.items) // 8), np.uint8), 0)
        if history := list(history):
            self.observe_many([session], [history], unknown=unknown)
        return session

    def session_from_bytes(self, blob: bytes) -> Session:
        """The session that gave the bytes. Raises UserError if they are damaged, or not of this very model."""
        longest = len(self._first_memory) if self._stream else self.config.max_len
        memory, seen, clicks = from_bytes(
            blob, self.fingerprint, self._first_memory, longest, -(-len(self.items) // 8)
        )
        is_whole = (
            len(memory) == longest
            if self._stream
            else ((memory > 0) & (memory <= len(self.items))).all()
        )
        if not is_whole:
            raise UserError(
                "session bytes: not a memory of this model; open a new session and observe the user's clicks"
            )
        return Session(self, memory, seen, clicks)

    def observe_many(
        self,
        sessions: Sequence[Session],
        clicks: Iterable,
        k: int | None = None,
        *,
        unknown: str = "error",
        **filters,
    ) -> list[Recommendation] | None:
        """Takes in clicks of many sessions at once: an id, or a list of them, for each.

        With k, gives their recommendations as recommend_many does, from the same call of the
        device. Shapes are padded to a few sizes, so that requests of any size share a few compiled
        programs. Raises UserError, and
        then nothing has changed.
        """
        rule = self._rule(1 if k is None else k, unknown, **filters)
        found = self.items.encode(
            [[c] if isinstance(c, (str, int, np.integer)) else c for c in clicks], unknown, "clicks"
        )
        if len(found) != len(sessions):
            raise UserError(
                f"clicks: found {len(found)} for {len(sessions)} sessions; expected an id or a list for each"
            )
        with locked(self, sessions):
            seen = [session.seen.copy() for session in sessions]
            for bits, items in zip(seen, found, strict=True):
                top_k.mark(bits[None], [items])
            blocked = self._blocked_by(seen, rule)
            if self._stream:
                memories, best = self._advance(
                    [s.memory for s in sessions], found, blocked, rule.k if k else None
                )
            else:
                longest = self.config.max_len
                memories = [
                    np.append(s.memory, items)[-longest:]
                    for s, items in zip(sessions, found, strict=True)
                ]
                best = self._best_of_memories(memories, blocked, rule.k) if k else []
            best = list(best)
            for session, memory, bits, items in zip(sessions, memories, seen, found, strict=True):
                session.memory = memory
                session.seen = bits
                session.clicks = session.clicks + len(items)
            is_empty = [not session.clicks for session in sessions]
        return self._named(best, is_empty, rule) if k else None

    def recommend_many(
        self, sessions: Sequence[Session], k: int = 10, *, unknown: str = "error", **filters
    ):
        """The k best items of each session now: [Recommendation]. filters, unknown: as `recommend`'s."""
        rule = self._rule(k, unknown, **filters)
        with locked(self, sessions):
            memories = [s.memory for s in sessions]
            is_empty = [not s.clicks for s in sessions]
            blocked = self._blocked_by([s.seen for s in sessions], rule)
        return self._named(self._best_of_memories(memories, blocked, rule.k), is_empty, rule)

    @property
    def _first_memory(self) -> np.ndarray:
        return self._stream.start if self._stream else NOTHING

    def _advance(self, memories, found, blocked, k: int | None):
        """(memories after more clicks, what is best then: (scores, items, free) a batch)."""
        after = []
        best = []
        for part, rows in self._batches(len(found)):
            bits = blocked(part)
            memory_BxS = fill(np.stack(memories[part]), rows)
            clicks = found[part] + [NOTHING] * (rows - len(bits))
            more = (self._item_NxCxD, fill(bits, rows), self._padded(k)) if k else ()
            memory_BxS, top_of_batch = self._stream(memory_BxS, clicks, *more)
            after += [memory_S.copy() for memory_S in np.asarray(memory_BxS)[: len(bits)]]
            if k:
                best.append((*top_of_batch, self._free(bits)))
        return after, best

    def _best_of_memories(self, memories, blocked, k: int):
        if self._stream:
            return (
                self._best(None, np.stack(memories)[:, None, : self._stream.dim], blocked, k)
                if memories
                else []
            )
        windows = self._windows(memories)
        return self._best(
            windows, self._encode_windows(*windows) if self.is_separable else None, blocked, k
        )

    def _blocked_by(self, seen: list[np.ndarray], rule: Rule):
        """The function from a part of the sessions to the bits of what they may not get."""
        shared_W = top_k.in_tiles(rule.blocked_V)

        def blocked(part: slice) -> np.ndarray:
            bits = np.repeat(shared_W[None], len(seen[part]), 0)
            if rule.exclude_seen:
                seen_BxW = np.stack(seen[part])
                bits[:, : seen_BxW.shape[1]] |= seen_BxW
            return bits

        return blocked

    # --- histories to user vectors, user vectors to items

    def _rule(
        self,
        k: int,
        unknown: str,
        *,
        exclude_seen: bool = True,
        exclude: Iterable = (),
        include_only=None,
    ) -> Rule:
        """What a call asks for, checked."""
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise UserError(f"k: found {k!r}, expected a whole number of at least 1")
        blocked_V = np.zeros(len(self.items), bool)
        if include_only is not None:
            (included,) = self.items.encode([include_only], unknown, "include_only")
            blocked_V[:] = True
            blocked_V[included - 1] = False
        (excluded,) = self.items.encode([exclude], unknown, "exclude")
        blocked_V[excluded - 1] = True
        return Rule(int(k), exclude_seen, blocked_V)

    def _batches(self, count: int):
        """(which histories, how many rows they are padded to) of each batch: whole ones if there are several."""
        for first in range(0, count, self._rows):
            size = min(self._rows, count - first)
            yield (
                slice(first, first + size),
                self._rows if count > self._rows else top_k.pad_up(size),
            )

    def _padded(self, k: int) -> int:
        return min(top_k.pad_up(k, 16), self._slots)

    def _free(self, blocked_BxW: np.ndarray) -> np.ndarray:
        """How many items each may get [B]."""
        return self._slots - np.bitwise_count(blocked_BxW).sum(1, dtype=np.int64)

    def _windows(self, found: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The last max_len clicks of each history, padded [n, L], and how many they are [n]."""
        return padded([items[-self.config.max_len :] for items in found], self.config.max_len)

    def _encode_windows(self, history_nxL, length_n) -> np.ndarray:
        """User vectors [n, K, D]."""
        lengths = lengths_read(self.config.max_len)
        pending = []
        group_n = np.searchsorted(lengths, length_n)
        for group, length in enumerate(lengths):
            members = np.flatnonzero(group_n == group)
            for part, rows in self._batches(len(members)):
                chosen = members[part]
                clicks = fill(history_nxL[chosen, :length], rows), fill(length_n[chosen], rows)
                pending.append((chosen, self._encode(self.params, *clicks)))
        if not pending:
            return np.zeros((0, 1, 1), np.float32)
        user_nxKxD = np.zeros((len(length_n), *pending[0][1].shape[1:]), np.float32)
        for (
            chosen,
            user_BxKxD,
        ) in pending:  # all are asked for first: the device works while this waits for one
            user_nxKxD[chosen] = np.asarray(user_BxKxD)[: len(chosen)]
        return user_nxKxD

    def _encode_whole(self, found: Sequence[np.ndarray]) -> np.ndarray:
        """User vectors [n, 1, D] at the end of whole histories, those of like length together."""
        user_nx1xD = np.zeros((len(found), 1, self.config.dim), np.float32)
        padded_n = np.array([top_k.pad_up(max(len(items), 1), 8) for items in found], int)
        for length in np.unique(padded_n).tolist():
            same = np.flatnonzero(padded_n == length)
            most = top_k.pad_up(max(min(CLICKS_AT_ONCE // length, self._rows), 1))
            for first in range(0, len(same), most):
                chosen = same[first : first + most]
                history, count = (
                    fill(x, top_k.pad_up(len(chosen)))
                    for x in padded([found[i] for i in chosen], length)
                )
                user_nx1xD[chosen] = np.asarray(self._encode(self.params, history, count))[
                    : len(chosen)
                ]
        return user_nx1xD

    def _best(self, windows, user_nxKxD, blocked, k: int):
        """(scores, items, free) of each batch, k of them and padding. blocked: a part of the histories -> bits [B, W]."""
        for part, rows in self._batches(len(windows[1] if user_nxKxD is None else user_nxKxD)):
            bits = blocked(part)
            blocked_BxW = fill(bits, rows)
            padded_k = self._padded(k)
            if user_nxKxD is None:
                clicks = (fill(x[part], rows) for x in windows)
                found = self._top_of_histories(self.params, *clicks, blocked_BxW, k=padded_k)
            else:
                found = self._top_of_users(
                    fill(user_nxKxD[part], rows), self._item_NxCxD, blocked_BxW, k=padded_k
                )
            yield (*found, self._free(bits))

    def _named(self, best, is_empty: Sequence[bool], rule: Rule) -> list[Recommendation]:
        """What is best, in the data's own ids. is_empty: which histories hold no click."""
        named = []
        floor = self._popular(rule) if any(is_empty) else None
        for scores, items, free in list(
            best
        ):  # all batches first: the device works while this waits for one
            scores = np.asarray(scores)
            places = (np.asarray(items) - 1).tolist()
            is_nan = np.isnan(scores).any(1)
            for row, count in enumerate(np.minimum(free, rule.k).tolist()):
                if is_empty[len(named)]:
                    named.append(floor)
                    continue
                if is_nan[row]:
                    raise UserError(
                        "the model scores an item with NaN; its checkpoint is damaged, copy the run's folder anew"
                    )
                named.append(
                    self._recommendation(places[row][:count], scores[row, :count], "model")
                )
        return named

    def _popular(self, rule: Rule) -> Recommendation:
        most = self.items.most_clicked
        chosen = most[~rule.blocked_V[most - 1]][: rule.k] - 1
        return self._recommendation(
            chosen.tolist(), self.items.clicks[chosen].astype(np.float32), "popularity"
        )

    def _recommendation(self, places: list[int], scores, source: str) -> Recommendation:
        ids = self.items.ids
        titles = self.items.titles
        return Recommendation(
            [ids[i] for i in places], scores, titles and [titles[i] for i in places], source
        )
