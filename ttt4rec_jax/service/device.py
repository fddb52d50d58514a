"""The device process's part of the service: models, their batches, and loading them again."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.service.batching import Answered, Batcher
from ttt4rec_jax.service.executor import Executor
from ttt4rec_jax.service.models import Model, warm
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import BATCHED, Answer, Request
from ttt4rec_jax.service.settings import ServiceConfig
from ttt4rec_jax.service.store import Store

logger = logging.getLogger(__name__)
Load = Callable[[], Mapping[str, Model]]
MOST_FOUND = 50  # items that a search returns


class Device:
    """Models that answer requests in batches, and can be replaced while they do.

    load: loads all models, by name; called again by `reload`. deliver: gets the answers to what was
    submitted, in another thread.
    """

    def __init__(
        self, load: Load, store: Store, config: ServiceConfig, deliver: Callable[[Answered], None]
    ):
        """Load the models. Raises UserError."""
        self.load = load
        self.config = config
        self.store = store
        self.executor = Executor(load(), store, config)
        self.batcher = Batcher(self.executor, config, deliver)
        self.is_ready = False
        self.is_stopping = False  # set from outside: what is being compiled is not finished
        self.loading = threading.Lock()

    def start(self) -> None:
        """Compile all programs, and begin to answer requests."""
        try:
            self._warm({name: served.model for name, served in self.executor.served.items()})
        except Problem:
            return
        self.batcher.start()
        self.is_ready = True
        logger.info("ready", extra={"models": self.models()})

    def submit(self, request: Request, owner: Any) -> None:
        """Queue a request; its answer is delivered with `owner`. Raises Problem."""
        if not self.is_ready:
            raise Problem("not-ready", "Programs are being compiled.", retry_after=2)
        if request.kind not in BATCHED:
            raise Problem("bad-request", f"There are no requests of kind {request.kind!r}.")
        self.batcher.submit(request, owner)

    def stop(self) -> None:
        """Answer what is waiting, and close the store."""
        if self.is_ready:
            self.is_ready = False
            self.batcher.stop()
        self.executor.close()

    async def control(self, request: Request) -> Answer:
        """Return the answer to a request that needs no batch."""
        try:
            if request.kind == "status":
                return self.status()
            work = self.search if request.kind == "items" else self.reload
            return await asyncio.to_thread(work, request)
        except Problem as problem:
            return Answer.of(problem)

    def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        return [
            {
                "name": name,
                "kind": served.model.about,
                "version": served.model.version,
                "items": len(served.model.items),
                "titles": served.model.items.titles is not None,
            }
            for name, served in self.executor.served.items()
        ]

    def status(self) -> Answer:
        """Return whether requests are answered, by which models, and how durably."""
        if not self.is_ready:
            return Answer.of(Problem("not-ready", "Programs are being compiled.", retry_after=2))
        return Answer.json(
            {"ready": True, "models": self.models(), "durability": self.store.durability}
        )

    def search(self, request: Request) -> Answer:
        """Return the items whose title or id contains a text. Raises Problem."""
        served = self.executor.served
        if request.model and request.model not in served:
            raise Problem("unknown-model", f"The models are {', '.join(served)}.")
        found = served[request.model or next(iter(served))].items.found
        return Answer.json({"items": found(request.text, min(request.k, MOST_FOUND))})

    def reload(self, request: Request | None = None) -> Answer:
        """Load the models again beside those that serve, compile their programs, and switch.

        Raises Problem; then the earlier models serve on.
        """
        if not self.is_ready:
            raise Problem("not-ready", "Programs are being compiled.", retry_after=2)
        if not self.loading.acquire(blocking=False):
            raise Problem("busy", "The models are already being loaded.", retry_after=10)
        try:
            models = self.load()
            self._warm(models)
            self.executor.use(models)
        except UserError as error:
            logger.warning("the run could not be loaded: %s", error)
            detail = "The earlier model serves on; the log of the service says why."
            raise Problem("reload-failed", detail) from error
        finally:
            self.loading.release()
        logger.info("reloaded", extra={"models": self.models()})
        return Answer(200, json.dumps({"models": self.models()}).encode())

    def _warm(self, models: Mapping[str, Model]) -> None:
        """Compile all programs. Raises Problem if the service stops meanwhile."""
        for model in models.values():
            for _ in warm(model, self.config.batch_sizes):
                if self.is_stopping:
                    raise Problem("not-ready", "The service is stopping.")
