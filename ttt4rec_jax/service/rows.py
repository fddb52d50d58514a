"""A request on its way through a batch: what is known of it so far."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.service.answers import Items
from ttt4rec_jax.service.live import Live, LiveSessions
from ttt4rec_jax.service.models import NO_CLICKS, Model
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

    items: the clicks to add; histories: those to rank for; excluded_W: the items that the filters
    exclude, as bits. count: the clicks of the session before the request; live: a state of the
    session, and `lacking` the clicks up to `count` that it has not read. replayed: the clicks after
    the request, if it was already done; -1 if not. best: the list, as JSON. again: whether another
    process has changed the session meanwhile, so that the request is to be executed again.
    """

    request: Request
    served: Served
    items: np.ndarray
    histories: list[np.ndarray]
    excluded_W: np.ndarray
    k: int
    count: int = 0
    live: Live | None = None
    lacking: np.ndarray = dataclasses.field(default_factory=lambda: NO_CLICKS)
    replayed: int = -1
    best: str = ""
    again: bool = False
    answer: Answer | None = None

    @property
    def after(self) -> int:
        """The number of the session's clicks after the request."""
        return self.count + len(self.items)


def make_row(request: Request, models: Mapping[str, Served]) -> Row:
    """Return a request with its ids turned into items. Raises Problem."""
    served = models.get(request.model) if request.model else next(iter(models.values()))
    if served is None:
        raise Problem("unknown-model", f"The models are {', '.join(models)}.")
    model = served.model
    encode = model.items.encode
    try:
        items = encode_clicks(request, model.items)
        histories = encode(request.histories, request.unknown) if request.histories else []
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
    return Row(request, served, items, histories, excluded_W, k)


def encode_clicks(request: Request, catalogue: Catalogue) -> np.ndarray:
    """Return the clicks of a request as items. Raises UserError for unknown ids."""
    if len(request.items) == 1 and (item := catalogue.by_id.get(request.items[0])):
        return np.array([item], np.int32)  # nearly always
    return catalogue.encode([request.items], request.unknown, "items")[0]


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
