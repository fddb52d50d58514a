"""What a batch asks of the device: states brought up to date, and lists."""

from collections.abc import Sequence

import numpy as np

from ttt4rec_jax.service import times
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
    """Add the clicks that states lack, except for one that `rank_sessions` adds."""
    lives = []
    lacking = []
    for row in rows:
        now = row.clicks[:-1] if last_is_left(row) else row.clicks
        lives.append(row.live)
        lacking.append(np.concatenate([row.lacking, now]) if len(now) else row.lacking)
    caught_up = served.live.caught_up([live for live in lives if live], lacking)
    for row, live in zip(rows, caught_up, strict=True):
        row.live = live._replace(clicks=row.after - last_is_left(row))


def last_is_left(row: Row) -> bool:
    """Return whether a row's last click is read in the call that makes its list.

    With --time=request it is not: that call reads it for the time of the list, and it is kept to be
    read again when the gap after it is known.
    """
    return bool(row.k and len(row.clicks) and row.served.model.timed.time != "request")


def rank_sessions(served: Served, rows: list[Row]) -> None:
    """Add the click that `advance` has left to each row's state and make its list, in one call."""
    if not rows:
        return
    model = served.model
    lives = [row.live for row in rows if row.live]
    last = [row.clicks[-1:] if last_is_left(row) else times.NO_CLICKS for row in rows]
    seen_BxW = join_rows([live.seen for live in lives])
    set_bits(seen_BxW, [clicks["item"] for clicks in last])
    excluded_BxW = join_rows([row.excluded_W for row in rows])
    is_hidden_B = np.array([row.request.exclude_seen for row in rows])
    excluded_BxW[:, : seen_BxW.shape[1]] |= seen_BxW * is_hidden_B[:, None]
    k = k_computed(model, max(row.k for row in rows))
    states = [live.state for live in lives]
    clocks = [live.clock for live in lives]
    if model.timed.time == "request":
        reads = [times.asked(model.timed, x.clock, r.at) for x, r in zip(lives, rows, strict=True)]
        _, best = model.step(states, reads, excluded_BxW, k)
    else:
        pairs = [times.read(model.timed, *x) for x in zip(last, clocks, strict=True)]
        clocks = [clock for _, clock in pairs]
        states, best = model.step(states, [clicks for clicks, _ in pairs], excluded_BxW, k)
    texts = served.items.best(best, [row.k for row in rows])
    for i, row in enumerate(rows):
        row.live = lives[i]._replace(
            clicks=row.after, state=states[i], seen=seen_BxW[i].copy(), clock=clocks[i]
        )
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
    reads = [clicks for row in rows for clicks in row.reads]
    excluded_BxW = join_rows([row.excluded_W for row in owners])
    seen = [
        history if row.request.exclude_seen else NO_CLICKS
        for row, history in zip(owners, histories, strict=True)
    ]
    set_bits(excluded_BxW, seen)
    k = k_computed(served.model, max(row.k for row in rows))
    best = served.model.rank(reads, excluded_BxW, k)
    texts = served.items.best(best, [row.k for row in owners])
    lists: dict[Row, list[str]] = {row: [] for row in rows}
    for row, history, text, excluded_W in zip(owners, histories, texts, excluded_BxW, strict=True):
        best_text = text if len(history) else served.items.popular(excluded_W, row.k)
        lists[row].append(f"{{{best_text}}}")
    for row in rows:
        row.best = f'"lists": [{", ".join(lists[row])}]'
        if "{}" in lists[row]:
            row.answer = Answer.of(DAMAGED)
