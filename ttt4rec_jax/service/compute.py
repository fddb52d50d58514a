"""What a batch asks of the device: states brought up to date, and lists."""

from collections.abc import Sequence

import numpy as np

from ttt4rec_jax.service.live import Live
from ttt4rec_jax.service.models import NO_CLICKS, k_computed
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import Answer
from ttt4rec_jax.service.rows import Row, Served
from ttt4rec_jax.serving.load_export import set_bits
from ttt4rec_jax.serving.recurrent import join_rows

DAMAGED = Problem("damaged-model", "The score of an item is NaN; copy the run again.")


def compute(rows: Sequence[Row]) -> None:
    """Bring the states of rows up to date and make the lists that they ask for.

    All rows of a model share its calls. A state that was not brought up to date, because a call
    failed, still tells after how many clicks it is.
    """
    for served in {id(row.served): row.served for row in rows}.values():
        mine = [row for row in rows if row.served is served]
        advance(served, [row for row in mine if row.live])
        rank_sessions(served, [row for row in mine if row.live and row.k])
        rank_histories(served, [row for row in mine if row.histories])


def advance(served: Served, rows: list[Row]) -> None:
    """Add the clicks that states lack, except for the last one of a row that asks for a list."""
    lives = []
    lacking = []
    for row in rows:
        now = row.items[:-1] if row.k else row.items
        lives.append(row.live)
        lacking.append(np.concatenate([row.lacking, now]) if len(now) else row.lacking)
    caught_up = served.live.caught_up([live for live in lives if live], lacking)
    for row, live in zip(rows, caught_up, strict=True):
        is_last_left = bool(row.k and len(row.items))
        row.live = Live(row.after - is_last_left, live.state, live.seen, live.saved)


def rank_sessions(served: Served, rows: list[Row]) -> None:
    """Add the last click of each row to its state and make its list, in one call of the device."""
    if not rows:
        return
    lives = [row.live for row in rows if row.live]
    last = [row.items[-1:] for row in rows]
    seen_BxW = join_rows([live.seen for live in lives])
    set_bits(seen_BxW, last)
    excluded_BxW = join_rows([row.excluded_W for row in rows])
    is_hidden_B = np.array([row.request.exclude_seen for row in rows])
    excluded_BxW[:, : seen_BxW.shape[1]] |= seen_BxW * is_hidden_B[:, None]
    k = k_computed(served.model, max(row.k for row in rows))
    states, best = served.model.step([live.state for live in lives], last, excluded_BxW, k)
    texts = served.items.best(best, [row.k for row in rows])
    for i, row in enumerate(rows):
        row.live = Live(row.after, states[i], seen_BxW[i].copy(), lives[i].saved)
        popular = "" if row.after else served.items.popular(excluded_BxW[i], row.k)
        row.best = popular or texts[i]
        if not row.best:
            row.answer = Answer.of(DAMAGED)


def rank_histories(served: Served, rows: list[Row]) -> None:
    """Make the lists for the histories of all rows, in few calls of the device."""
    if not rows:
        return
    owners = [row for row in rows for _ in row.histories]
    histories = [history for row in rows for history in row.histories]
    excluded_BxW = join_rows([row.excluded_W for row in owners])
    seen = [
        history if row.request.exclude_seen else NO_CLICKS
        for row, history in zip(owners, histories, strict=True)
    ]
    set_bits(excluded_BxW, seen)
    k = k_computed(served.model, max(row.k for row in rows))
    best = served.model.rank(histories, excluded_BxW, k)
    texts = served.items.best(best, [row.k for row in owners])
    lists: dict[Row, list[str]] = {row: [] for row in rows}
    for row, history, text, excluded_W in zip(owners, histories, texts, excluded_BxW, strict=True):
        best_text = text if len(history) else served.items.popular(excluded_W, row.k)
        lists[row].append(f"{{{best_text}}}")
    for row in rows:
        row.best = f'"lists": [{", ".join(lists[row])}]'
        if "{}" in lists[row]:
            row.answer = Answer.of(DAMAGED)
