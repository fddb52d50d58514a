"""A request on its way through a batch: what is known of it so far."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.service import times
from ttt4rec_jax.service.answers import Items
from ttt4rec_jax.service.live import Live, LiveSessions
from ttt4rec_jax.service.models import Model
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import Answer, Request
from ttt4rec_jax.service.store import Store
from ttt4rec_jax.serving.load_export import set_bits


class Served:
    """A model with its items as JSON and the states of its sessions."""

    def __init__(self, name: str, model: Model, store: Store, cached_sessions: int):
        self.name = name
        self.model = model
        self.live = LiveSessions(model, store, cached_sessions)
        self.items = Items(model.items)


@dataclasses.dataclass(eq=False)
class Row:
    """A request and what was found for it.

    clicks: those to add, an array of times.CLICK; histories: the items of those to rank for, and
    reads: what the model reads of them; excluded_W: the items that the filters exclude, as bits.
    at: the time for which lists are asked. count: the clicks of the session before the request;
    live: a state of the session, and `lacking` the clicks up to `count` that it has not read.
    replayed: the clicks after the request, if it was already done; -1 if not. best: the list, as
    JSON. again: whether another process has changed the session meanwhile, so that the request is
    to be executed again.
    """

    request: Request
    served: Served
    clicks: np.ndarray
    histories: list[np.ndarray]
    reads: list[np.ndarray]
    excluded_W: np.ndarray
    k: int
    at: float
    count: int = 0
    live: Live | None = None
    lacking: np.ndarray = dataclasses.field(default_factory=lambda: times.NO_CLICKS)
    replayed: int = -1
    best: str = ""
    again: bool = False
    answer: Answer | None = None

    @property
    def after(self) -> int:
        """The number of the session's clicks after the request."""
        return self.count + len(self.clicks)


def make_row(request: Request, models: Mapping[str, Served], now: float) -> Row:
    """Return a request with its ids turned into items. Raises Problem.

    now: the time of clicks that come without one, and of lists.
    """
    served = models.get(request.model) if request.model else next(iter(models.values()))
    if served is None:
        raise Problem("unknown-model", f"The models are {', '.join(models)}.")
    model = served.model
    encode = model.items.encode
    at = now if request.at is None else request.at
    clicks = times.NO_CLICKS
    histories: list[np.ndarray] = []
    reads: list[np.ndarray] = []
    try:
        if request.items:
            clicks = encode_clicks(request, model.items, now)
        if request.histories:
            histories, reads = encode_histories(request, model, at)
        excluded_W = model.nothing_excluded
        if request.include_only is not None:
            (included,) = encode([request.include_only], request.unknown, "include_only")
            included_W = np.zeros_like(excluded_W)
            set_bits(included_W[None], [included])
            excluded_W = excluded_W | ~included_W
        if request.exclude:
            (excluded,) = encode([request.exclude], request.unknown, "exclude")
            excluded_W = excluded_W.copy()
            set_bits(excluded_W[None], [excluded])
    except UserError as error:
        raise Problem("unknown-item", str(error)) from error
    k = min(request.k, model.max_k)  # fewer items than the limit, or an export of shorter lists
    return Row(request, served, clicks, histories, reads, excluded_W, k, at)


def encode_clicks(request: Request, catalogue: Catalogue, now: float) -> np.ndarray:
    """Return the clicks of a request, those without times as of now.

    Raises UserError for unknown ids, Problem for another number of times.
    """
    seconds: Any = request.times
    if seconds is None:
        seconds = [now] * len(request.items)
    elif len(seconds) != len(request.items):
        detail = f"times: found {len(seconds)} for {len(request.items)} items; expected one each."
        raise Problem("invalid", detail)
    if len(request.items) == 1 and (item := catalogue.by_id.get(request.items[0])):
        return np.array([(item, seconds[0])], times.CLICK)  # nearly always
    (items,) = catalogue.encode([request.items], request.unknown, "items", keep_unknown=True)
    return times.join(items, seconds)[items > 0]


def encode_histories(
    request: Request, model: Model, at: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the items of a request's histories, and what the model reads of them.

    Raises UserError for unknown ids, Problem for times that are missing or wrong.
    """
    every = model.items.encode(request.histories, request.unknown, keep_unknown=True)
    histories = [items[items > 0] for items in every]
    if model.timed.time == "none":
        return histories, histories
    try:
        rows = model.timed.check(request.times, [len(items) for items in every])
        reads = []
        for items, row in zip(every, rows, strict=True):
            known = np.array(row)[items > 0].tolist()
            moment = max([at, *known]) if request.at is None else at
            reads.append(model.timed.of_history(items[items > 0], known, moment))
    except UserError as error:
        raise Problem("invalid", f"{error}.") from error
    return histories, reads


def unanswered(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that have no answer yet."""
    return [row for row in rows if row.answer is None and not row.again]


def guarded(step: Callable[[Row], None], rows: Iterable[Row]) -> None:
    """Take a step for each row; a Problem is the answer to that row alone."""
    for row in rows:
        try:
            step(row)
        except Problem as problem:
            row.answer = Answer.of(problem)
