"""Engine: a model that encodes histories, advances the states of sessions and ranks all items.

It works only on arrays of item numbers, in batches padded to a few shapes, so that requests of any
size share a few compiled programs. recommender.py handles ids, filters and sessions.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from data_prep.settings import UserError
from ttt4rec_jax.data.clicks import lengths_read
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.models import StreamingModel, TwoTower
from ttt4rec_jax.serving import top_k
from ttt4rec_jax.serving.load_export import next_power_of_two, pad_rows, windows
from ttt4rec_jax.serving.recurrent import RecurrentPrograms, join_rows
from ttt4rec_jax.ttt.matmul import on_cpu

MAX_SCORES = 2**24  # users x items of a batch: 64 MB
MAX_CLICKS = 2**15  # of a batch of whole histories
# Numbers in the recurrent states of a batch on a CPU: 8 MB. More would leave its caches, and their
# memory would be requested from the system again in each call.
MAX_STATES = 2**21
NO_CLICKS = np.zeros(0, np.int32)

# From a slice of the requests to the bit masks [B, W] of the items that are excluded for each. Only
# the masks of one batch are in memory at a time: those of all requests would be users x items.
Blocked = Callable[[slice], np.ndarray]


class Ranked(NamedTuple):
    """The best items of a batch of B requests, the best first, and how many are allowed for each.

    scores, items: [rows, k], with B or more rows and k or more columns; num_allowed: [B].
    """

    scores: jax.Array
    items: jax.Array
    num_allowed: np.ndarray


def is_two_tower(model: Any) -> bool:
    """Return whether a model has user vectors and item vectors, instead of scoring pairs."""
    return isinstance(model, TwoTower)


def is_recurrent(model: Any) -> bool:
    """Return whether a model reads clicks one by one into a state of fixed size."""
    return isinstance(model, StreamingModel) and model.is_stream


class Engine:
    """A model on a device. It is immutable, so that any thread may call it.

    The state of a session is the recurrent state [S] of a recurrent model (recurrent.py), and the
    last max_len clicks [n] of any other model.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: dict[str, Any],
        num_items: int,
        max_len: int,
        batch_sizes: Sequence[int] = (),
    ):
        """Compute all item vectors of a two-tower model; other programs are compiled on demand.

        graphdef, params: the model split by nnx.Param, the parameters as a plain dict.
        batch_sizes: the ascending numbers of rows that batches are padded to; () for powers of two.
        """
        self.process = os.getpid()
        model = nnx.merge(graphdef, params)
        item_NxC = ranking.item_tiles(num_items)
        self.params = params
        self.num_items = num_items
        self.max_len = max_len
        self.is_two_tower = is_two_tower(model)
        self.is_timed = getattr(model, "reads_times", "none") != "none"
        self.recurrent = RecurrentPrograms(graphdef, params) if is_recurrent(model) else None
        self.num_slots = item_NxC.size
        at_most = min(ranking.TILE, max(MAX_SCORES // self.num_slots, 1))
        fitting = [size for size in batch_sizes if size <= at_most]
        self.batch_sizes = fitting or [1 << power for power in range(at_most.bit_length())]
        states_at_most = max(1, MAX_STATES // self.max_state_size) if on_cpu() else at_most
        fitting = [size for size in self.batch_sizes if size <= states_at_most]
        self.state_batch_sizes = fitting or self.batch_sizes[:1]

        def item_vectors(params):
            return jax.lax.map(nnx.merge(graphdef, params).item_vectors, item_NxC)

        def encode(params, history_BxL, length_B):
            return nnx.merge(graphdef, params).encode(history_BxL, length_B)

        def top_k_of_users(item_NxCxD, user_BxKxD, blocked_BxW, k):
            return top_k.top_k_of_users(model, user_BxKxD, item_NxCxD, blocked_BxW, k)

        def top_k_of_histories(params, history_BxL, length_B, blocked_BxW, k):
            model = nnx.merge(graphdef, params)
            return top_k.top_k_of_histories(model, history_BxL, length_B, blocked_BxW, num_items, k)

        self.item_NxCxD: Any = jax.jit(item_vectors)(params) if self.is_two_tower else None
        self.encode = jax.jit(encode)
        self.top_k_of_users = jax.jit(top_k_of_users, static_argnames="k")
        self.top_k_of_histories = jax.jit(top_k_of_histories, static_argnames="k")

    def check_process(self) -> None:
        """Raise UserError in a process that was forked after this object was made."""
        if os.getpid() != self.process:
            raise UserError(
                f"Recommender: made in process {self.process}, which was forked since, and JAX's "
                "threads do not survive a fork; load the run in each process, after the fork"
            )

    @property
    def initial_state(self) -> np.ndarray:
        """The state of a session before its first click."""
        return self.recurrent.initial_state if self.recurrent else NO_CLICKS

    @property
    def max_state_size(self) -> int:
        """The length of the longest state."""
        return len(self.initial_state) if self.recurrent else self.max_len

    def is_state(self, state: np.ndarray) -> bool:
        """Return whether a vector is a valid state: of the right size, or of items."""
        if self.recurrent:
            return len(state) == self.max_state_size
        items = state % (self.num_items + 1) if self.is_timed else state
        return bool(((state > 0) & (items > 0) & (items <= self.num_items)).all())

    def rank_histories(
        self, histories: Sequence[np.ndarray], blocked: Blocked, k: int, *, whole: bool = False
    ) -> list[Ranked]:
        """Rank all items for each history by its last max_len clicks, or by all of them if `whole`.

        Only a recurrent model can read whole histories.
        """
        if self.is_two_tower:
            encode = self.encode_whole if whole else self.encode_windows
            return self._rank_users(encode(histories), blocked, k)
        program = functools.partial(self.top_k_of_histories, self.params)
        return self._rank(program, windows(histories, self.max_len), blocked, k)

    def rank_states(self, states: Sequence[np.ndarray], blocked: Blocked, k: int) -> list[Ranked]:
        """Rank all items for the state of each session."""
        if not self.recurrent:
            return self.rank_histories(states, blocked, k)
        if not states:
            return []
        return self._rank_users(join_rows(states)[:, None, : self.recurrent.dim], blocked, k)

    def advance(
        self,
        states: Sequence[np.ndarray],
        clicks: Sequence[np.ndarray],
        blocked: Blocked | None = None,
        k: int = 0,
    ) -> tuple[list[np.ndarray], list[Ranked]]:
        """Return the states after more clicks and, given `blocked`, the ranked items."""
        if self.recurrent:
            return self._advance_recurrent(self.recurrent, states, clicks, blocked, k)
        after = [
            np.append(state, items)[-self.max_len :]
            for state, items in zip(states, clicks, strict=True)
        ]
        return after, [] if blocked is None else self.rank_states(after, blocked, k)

    def encode_windows(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Return user vectors [n, K, D] by the last max_len clicks of each history.

        As in the evaluation, histories are grouped by length and padded to one of a few lengths.
        """
        history_nxL, length_n = windows(histories, self.max_len)
        lengths = lengths_read(self.max_len)
        group_n = np.searchsorted(lengths, length_n)
        pending = []  # dispatch all calls before waiting for the first result
        for group, length in enumerate(lengths):
            members = np.flatnonzero(group_n == group)
            for part, rows in batches(len(members), self.batch_sizes):
                chosen = members[part]
                history_BxL = pad_rows(history_nxL[chosen, :length], rows)
                length_B = pad_rows(length_n[chosen], rows)
                pending.append((chosen, self.encode(self.params, history_BxL, length_B)))
        if not pending:
            return np.zeros((0, 1, 1), np.float32)
        user_nxKxD = np.zeros((len(length_n), *pending[0][1].shape[1:]), np.float32)
        for chosen, user_BxKxD in pending:
            user_nxKxD[chosen] = np.asarray(user_BxKxD)[: len(chosen)]
        return user_nxKxD

    def encode_whole(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Return user vectors [n, 1, D] by all clicks of each history, grouped by padded length."""
        length_n = np.array([next_power_of_two(max(len(h), 1), 8) for h in histories], int)
        user_nx1xD = np.zeros((0, 1, 1), np.float32)
        for length in np.unique(length_n).tolist():
            members = np.flatnonzero(length_n == length)
            size = next_power_of_two(max(min(MAX_CLICKS // length, self.batch_sizes[-1]), 1))
            for first in range(0, len(members), size):
                chosen = members[first : first + size]
                rows = next_power_of_two(len(chosen))
                history_BxL, count_B = windows([histories[i] for i in chosen], length)
                user_Bx1xD = np.asarray(
                    self.encode(self.params, pad_rows(history_BxL, rows), pad_rows(count_B, rows))
                )
                if not len(user_nx1xD):
                    user_nx1xD = np.zeros((len(histories), *user_Bx1xD.shape[1:]), np.float32)
                user_nx1xD[chosen] = user_Bx1xD[: len(chosen)]
        return user_nx1xD

    def _advance_recurrent(
        self,
        recurrent: RecurrentPrograms,
        states: Sequence[np.ndarray],
        clicks: Sequence[np.ndarray],
        blocked: Blocked | None,
        k: int,
    ) -> tuple[list[np.ndarray], list[Ranked]]:
        after: list[np.ndarray] = []
        ranked = []
        for part, rows in batches(len(clicks), self.state_batch_sizes):
            count = len(clicks[part])
            padding = [states[part.start]] * (rows - count)
            before = self.params, join_rows([*states[part], *padding])
            padded_clicks = [*clicks[part], *[NO_CLICKS] * (rows - count)]
            if blocked is None:
                state_BxS = recurrent.advance_all(*before, padded_clicks)
            else:
                blocked_BxW = blocked(part)
                state_BxS, (scores, items) = recurrent.advance_all_and_top_k(
                    *before,
                    padded_clicks,
                    self.item_NxCxD,
                    pad_rows(blocked_BxW, rows),
                    self._padded_k(k),
                )
                ranked.append(Ranked(scores, items, self._num_allowed(blocked_BxW)))
            # copies, so that a session does not keep the whole batch in memory
            after += [state_S.copy() for state_S in np.asarray(state_BxS)[:count]]
        return after, ranked

    def _rank_users(self, user_nxKxD: np.ndarray, blocked: Blocked, k: int) -> list[Ranked]:
        program = functools.partial(self.top_k_of_users, self.item_NxCxD)
        return self._rank(program, (user_nxKxD,), blocked, k)

    def _rank(
        self, program: Callable, inputs: tuple[np.ndarray, ...], blocked: Blocked, k: int
    ) -> list[Ranked]:
        """Run a program (*inputs, blocked, k) -> (scores, items) in batches."""
        ranked = []
        for part, rows in batches(len(inputs[0]), self.batch_sizes):
            blocked_BxW = blocked(part)
            padded = [pad_rows(x, rows) for x in (*(x[part] for x in inputs), blocked_BxW)]
            scores, items = program(*padded, k=self._padded_k(k))
            ranked.append(Ranked(scores, items, self._num_allowed(blocked_BxW)))
        return ranked

    def _padded_k(self, k: int) -> int:
        return min(next_power_of_two(k, 16), self.num_slots)

    def _num_allowed(self, blocked_BxW: np.ndarray) -> np.ndarray:
        """Return how many items are not blocked [B]."""
        # two bytes at a time, which is faster: a tile is of whole groups of 16 items
        pair_BxP = np.ascontiguousarray(blocked_BxW).view(np.uint16)
        return self.num_slots - np.bitwise_count(pair_BxP).sum(1, dtype=np.int64)


def batches(count: int, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Yield (slice of the requests, number of rows to pad them to) for each batch.

    sizes: the ascending numbers of rows that batches may have.
    """
    largest = sizes[-1]
    for first in range(0, count, largest):
        size = min(largest, count - first)
        padded = min(rows for rows in sizes if rows >= size)
        yield slice(first, first + size), largest if first else padded
