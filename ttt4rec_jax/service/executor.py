"""Executes a batch of requests: one look at the store, one commit, few calls of the device."""

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ttt4rec_jax.service.compute import compute
from ttt4rec_jax.service.models import Model
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import Answer, Request
from ttt4rec_jax.service.rows import Row, Served, guarded, make_row, unanswered
from ttt4rec_jax.service.settings import SAVE_EVERY, ServiceConfig
from ttt4rec_jax.service.store import Append, Changes, Clicks, Store, StoreError

PURGE_S = 300.0  # between two removals of expired sessions, which look at all sessions
NO_SUCH_SESSION = "It has expired, was deleted, or never existed; open a new one."


class Executor:
    """Executes batches, one at a time.

    Clicks are written while the device computes with them. They are what counts: a state is kept
    only if they were written, and can be computed from them again.

    models: by name; the first is the default. now: the present in seconds since 1970.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        store: Store,
        config: ServiceConfig,
        now: Callable[[], float] = time.time,
    ):
        self.config = config
        self.now = now
        self.store = store
        self.committer = ThreadPoolExecutor(1, "commit")
        self.unsaved = Changes()  # states that the next commit saves
        self.counts: dict[str, int] = {}  # clicks of sessions, as this process wrote them last
        self.num_sessions = store.purge()
        self.next_purge = time.monotonic() + PURGE_S
        self.use(models)

    def use(self, models: Mapping[str, Model]) -> None:
        """Replace the models. A batch that is being executed keeps those that it began with."""
        self.served = {
            name: Served(name, model, self.store, self.config.cached_sessions)
            for name, model in models.items()
        }

    def execute(self, requests: Sequence[Request]) -> list[Answer | None]:
        """Return the answers; None for a request that has to be executed again.

        Each session may occur in one request only.
        """
        answers: list[Answer | None] = []
        rows: dict[int, Row] = {}
        served = self.served
        now = round(self.now(), 3)
        for place, request in enumerate(requests):
            answers.append(None)
            try:
                rows[place] = make_row(request, served, now)
            except Problem as problem:
                answers[place] = Answer.of(problem)
        self._execute(list(rows.values()))
        for place, row in rows.items():
            answers[place] = row.answer
        return answers

    def purge_if_due(self) -> None:
        """Remove expired sessions now and then."""
        if time.monotonic() >= self.next_purge:
            self.next_purge = time.monotonic() + PURGE_S
            with contextlib.suppress(StoreError):  # the next request reports it
                self.num_sessions = self.store.purge()

    def close(self) -> None:
        """Save the states that wait to be saved, and close the store."""
        with contextlib.suppress(StoreError):  # they can be computed again
            if self.unsaved:
                self.store.commit(self.unsaved)
        self.committer.shutdown()
        self.store.close()

    def _execute(self, rows: list[Row]) -> None:
        try:
            guarded(self._open, [row for row in rows if row.request.kind == "create"])
            self._look_up([row for row in unanswered(rows) if row.request.session])
            guarded(self._find_state, unanswered(rows))
            commit = self._start_commit(unanswered(rows))
        except StoreError as error:
            self._refuse(unanswered(rows), error)
            return
        try:
            compute(unanswered(rows))
        finally:
            self._finish_commit(commit, unanswered(rows))
        for row in unanswered(rows):
            row.answer = self._answer(row)

    def _open(self, row: Row) -> None:
        """Give a new session its id. Raises Problem."""
        if self.num_sessions >= self.config.max_sessions:
            detail = f"{self.num_sessions:,} sessions are open; try again later."
            raise Problem("too-many-sessions", detail, retry_after=60)
        self.num_sessions += 1
        row.request.session = secrets.token_urlsafe(16)

    def _look_up(self, rows: list[Row]) -> None:
        """Find how many clicks sessions have, and which requests were done before."""
        rows = [row for row in rows if row.request.kind != "create" and not self._recalled(row)]
        if not rows:
            return
        counts = self.store.counts([row.request.session for row in rows])
        keys = [(row.request.session, row.request.key) for row in rows if row.request.key]
        outcomes = self.store.outcomes(keys) if keys else {}
        for row in rows:
            count = counts.get(row.request.session)
            if count is None:
                row.answer = Answer.of(Problem("unknown-session", NO_SUCH_SESSION))
                continue
            row.count = count
            row.replayed = outcomes.get((row.request.session, row.request.key), -1)
            if row.replayed >= 0:
                row.clicks = row.clicks[:0]

    def _recalled(self, row: Row) -> bool:
        """Return whether a row's clicks can be written without a look at the store.

        If the remembered number is wrong, nothing is written, and the row is executed again.
        """
        if not len(row.clicks) or row.request.key or self.store.has_other_writers:
            return False
        row.count = self.counts.get(row.request.session, -1)
        return row.count >= 0

    def _remember(self, session: str, count: int) -> None:
        """Remember how many clicks a session has; the ones that were used last are remembered."""
        self.counts.pop(session, None)
        self.counts[session] = count
        if len(self.counts) > self.config.cached_sessions:
            self.counts.pop(next(iter(self.counts)))

    def _find_state(self, row: Row) -> None:
        """Find the state that a request needs, and the clicks that it lacks. Raises Problem.

        Clicks without a list need none, except now and then, for states to be saved.
        """
        is_due = row.after // SAVE_EVERY > row.count // SAVE_EVERY
        if row.request.kind in ("clicks", "list") and (row.k or is_due):
            try:
                row.live, row.lacking = row.served.live.find(row.request.session, row.count)
            except Problem:
                if self.counts.pop(row.request.session, None) is None:
                    raise
                row.again = True  # perhaps the remembered number is wrong

    def _start_commit(self, rows: list[Row]) -> "Future[set[str]] | None":
        """Begin to write what rows change, together with states that wait to be saved."""
        changes = self.unsaved
        self.unsaved = Changes()
        for row in rows:
            session = row.request.session
            if row.request.kind == "create":
                changes.creates.append(session)
            elif row.request.kind == "delete":
                changes.deletes.append(session)
            elif len(row.clicks):
                ids = row.served.model.items.ids
                chosen = [str(ids[item - 1]) for item in row.clicks["item"].tolist()]
                clicks = Clicks(row.count, chosen, row.clicks["time"].tolist())
                changes.appends.append(Append(session, clicks, row.request.key))
        return self.committer.submit(self.store.commit, changes) if changes else None

    def _finish_commit(self, commit: "Future[set[str]] | None", rows: list[Row]) -> None:
        """Wait until the changes are durable, and keep the states that they lead to."""
        try:
            conflicts = commit.result() if commit else set()
        except StoreError as error:
            changing = [row for row in rows if row.request.kind in ("create", "clicks", "delete")]
            for row in changing:  # it is not known whether they were written
                self.counts.pop(row.request.session, None)
            self._refuse(changing, error)
            conflicts = set()
        for row in unanswered(rows):
            session = row.request.session
            row.again = session in conflicts
            if row.again or row.request.kind == "delete":
                self.counts.pop(session, None)
            elif len(row.clicks):
                self._remember(session, row.after)
            if row.request.kind == "delete":
                self.num_sessions -= 1
                for served in self.served.values():
                    served.live.drop(session)
            elif row.live and row.live.clicks == row.after and not row.again:
                saved = row.served.live.keep(session, row.live)
                if saved:
                    self.unsaved.saved[session, row.served.model.version] = saved

    def _refuse(self, rows: Sequence[Row], error: StoreError) -> None:
        for row in rows:
            row.answer = Answer.of(Problem("store-unavailable", f"{error}.", retry_after=1))

    def _answer(self, row: Row) -> Answer:
        kind = row.request.kind
        if kind == "recommend":
            return Answer(200, f"{{{row.best}}}".encode())
        if kind == "create":
            return Answer.json({"id": row.request.session, "clicks": 0}, 201)
        if kind == "delete":
            return Answer(204, b"")
        if kind == "session":
            return self._session(row)
        count = row.after if row.replayed < 0 else row.replayed
        replayed = ', "replayed": true' if row.replayed >= 0 else ""
        best = f", {row.best}" if row.best else ""
        return Answer(200, f'{{"clicks": {count}{replayed}{best}}}'.encode())

    def _session(self, row: Row) -> Answer:
        """Return the kept clicks of a session."""
        try:
            kept = self.store.clicks(row.request.session, 0, row.count)
        except StoreError as error:
            return Answer.of(Problem("store-unavailable", f"{error}.", retry_after=1))
        items = row.served.items.listed(kept)
        body = {"id": row.request.session, "clicks": row.count, "items": items}
        return Answer(200, json.dumps(body).encode())
