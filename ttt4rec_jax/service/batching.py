"""One thread that collects requests into batches and has them executed."""

import collections
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ttt4rec_jax.service import metrics
from ttt4rec_jax.service.executor import Executor
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import Answer, Request
from ttt4rec_jax.service.settings import ServiceConfig

logger = logging.getLogger(__name__)
Answered = list[tuple[Any, Answer]]
MOST_TRIES = 10  # of a request whose session other processes keep changing
IDLE_S = 1.0  # how long the thread sleeps at most
LATE = "Nothing was done; try again."
CONTENDED = "Other processes keep changing this session; nothing was done; try again."


class Waiting:
    """A request that waits. owner: what its answer is delivered with."""

    __slots__ = ("deadline", "owner", "request", "tries")

    def __init__(self, request: Request, owner: Any, deadline: float):
        self.request = request
        self.owner = owner
        self.deadline = deadline
        self.tries = 0


class Batcher:
    """Collects requests while the device is busy, and answers them together.

    Requests of one session are answered in the order in which they came, in a batch each.
    """

    def __init__(
        self, executor: Executor, config: ServiceConfig, deliver: Callable[[Answered], None]
    ):
        """deliver: is called with (owner, answer) pairs, in the thread of the batches."""
        self.executor = executor
        self.config = config
        self.deliver = deliver
        self.queue: collections.deque[Waiting] = collections.deque()
        self.changed = threading.Condition()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def submit(self, request: Request, owner: Any) -> None:
        """Queue a request, whose answer is delivered with `owner`. Raises Problem if it is full."""
        with self.changed:
            if self.stopping:
                raise Problem("not-ready", "The service is stopping.", retry_after=1)
            if len(self.queue) >= self.config.max_queue:
                detail = f"{len(self.queue):,} requests are waiting; try again in a second."
                raise Problem("busy", detail, retry_after=1)
            deadline = time.monotonic() + self.config.timeout_s
            self.queue.append(Waiting(request, owner, deadline))
            self.changed.notify()

    def stop(self) -> None:
        """Answer what is waiting, and end the thread."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                self._answer(batch)
            elif self.stopping:
                return
            self.executor.purge_if_due()

    def _next_batch(self) -> list[Waiting]:
        """Wait for requests, and take as many as one batch may have; none if there are none."""
        with self.changed:
            if not self.queue and not self.stopping:
                self.changed.wait(IDLE_S)
                if self.queue and self.config.batch_wait_ms:
                    self._wait_for_more()
            batch: list[Waiting] = []
            postponed = []
            sessions: set[str] = set()
            while self.queue and len(batch) < self.config.max_batch:
                waiting = self.queue.popleft()
                session = waiting.request.session
                if session and session in sessions:
                    postponed.append(waiting)
                    continue
                sessions.add(session)
                batch.append(waiting)
            self.queue.extendleft(reversed(postponed))
            return batch

    def _wait_for_more(self) -> None:
        until = time.monotonic() + self.config.batch_wait_ms / 1000
        while (left := until - time.monotonic()) > 0 and not self.stopping:
            if len(self.queue) >= self.config.max_batch:
                return
            self.changed.wait(left)

    def _answer(self, batch: list[Waiting]) -> None:
        """Execute a batch; those that have to be executed again go to the front of the queue."""
        now = time.monotonic()
        late = Answer.of(Problem("timeout", LATE, retry_after=1))
        delivered: Answered = [(w.owner, late) for w in batch if now > w.deadline]
        batch = [waiting for waiting in batch if now <= waiting.deadline]
        metrics.BATCH_SIZE.observe(len(batch))
        answers = self._execute([waiting.request for waiting in batch])
        metrics.BATCH_SECONDS.observe(time.monotonic() - now)
        metrics.SESSIONS.set(self.executor.num_sessions)
        again = []
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.tries += 1
            if answer is None and waiting.tries < MOST_TRIES:
                again.append(waiting)
            else:
                answer = answer or Answer.of(Problem("busy", CONTENDED, retry_after=1))
                delivered.append((waiting.owner, answer))
        with self.changed:
            self.queue.extendleft(reversed(again))
        self.deliver(delivered)

    def _execute(self, requests: Sequence[Request]) -> Sequence[Answer | None]:
        try:
            return self.executor.execute(requests) if requests else []
        except Exception:
            logger.exception("a batch of %d requests failed", len(requests))
            failed = Answer.of(Problem("internal", "The log of the service says more."))
            return [failed] * len(requests)
