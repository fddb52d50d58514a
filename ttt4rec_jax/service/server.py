"""The device process: loads the models, starts HTTP workers, and stops in order.

Workers inherit one listening socket, so that they share a port, and ask this process over a Unix
socket. A worker that dies is started again; workers end when this process does.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import uvloop

from data_prep.settings import UserError
from ttt4rec_jax.service.device import Device, Load
from ttt4rec_jax.service.link import Channel, deliver
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.settings import ServiceConfig
from ttt4rec_jax.service.sqlite_store import SqliteStore
from ttt4rec_jax.service.store import Store

logger = logging.getLogger(__name__)
BACKLOG = 2048
RESTART_S = 1.0  # before a worker that died is started again
SWITCH_S = 0.0005  # threads that take turns more often than by default let answers out sooner


def serve(config: ServiceConfig, load: Load, folder: Path) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises UserError.

    folder: an empty one for the Unix socket, for this process and its workers alone.
    """
    sys.setswitchinterval(SWITCH_S)
    with listening(config) as listener:
        store = open_store(config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Server(config, load, store, listener, folder).run())


def open_store(config: ServiceConfig) -> Store:
    """Open the store that the settings name. Raises UserError."""
    if config.uses_redis:
        from ttt4rec_jax.service.redis_store import RedisStore

        return RedisStore(config.sessions, config.session_ttl_s, config.keep_clicks)
    return SqliteStore(config.sessions, config.session_ttl_s, config.keep_clicks)


@contextlib.contextmanager
def listening(config: ServiceConfig) -> Iterator[socket.socket]:
    """Hold the port. Raises UserError if it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.create_server((config.host, config.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else error
        raise UserError(
            f"--port: cannot listen on {config.host}:{config.port} ({reason}); "
            "choose another --port or --host"
        ) from error
    with listener:
        yield listener


class _Server:
    def __init__(
        self,
        config: ServiceConfig,
        load: Load,
        store: Store,
        listener: socket.socket,
        folder: Path,
    ):
        self.config = config
        self.listener = listener
        self.link = folder / "link"
        self.stopping = asyncio.Event()
        self.failed = False
        self.device = Device(load, store, config, self._deliver)

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stopping.set)
        self.loop.add_signal_handler(signal.SIGHUP, self._reload)
        links = await self.loop.create_unix_server(
            lambda: Channel(self.device.submit, self.device.control), self.link
        )
        workers = [asyncio.create_task(self._worker()) for _ in range(self.config.workers)]
        host, port = self.listener.getsockname()[:2]
        logger.info("listening", extra={"host": host, "port": port})
        starting = threading.Thread(target=self._start)
        starting.start()
        await self.stopping.wait()
        logger.info("stopping")
        self.device.is_stopping = True
        await asyncio.gather(*workers)
        await asyncio.to_thread(starting.join)
        await asyncio.to_thread(self.device.stop)
        links.close()
        logger.info("stopped")
        if self.failed:
            raise UserError("the programs cannot be compiled; the log above says why")

    def _start(self) -> None:
        try:
            self.device.start()
        except Exception:
            logger.exception("the programs cannot be compiled")
            self.failed = True
            self.loop.call_soon_threadsafe(self.stopping.set)

    def _deliver(self, answers: list) -> None:
        self.loop.call_soon_threadsafe(deliver, answers)

    def _reload(self) -> None:
        def reload() -> None:
            try:
                self.device.reload()
            except Problem as problem:
                logger.warning("not reloaded: %s", problem)

        threading.Thread(target=reload).start()

    async def _worker(self) -> None:
        """Keep one worker running until the service stops."""
        settings = {
            "config": dataclasses.asdict(self.config),
            "listener": self.listener.fileno(),
            "link": str(self.link),
        }
        words = [sys.executable, "-m", "ttt4rec_jax.service.worker", json.dumps(settings)]
        stopping = asyncio.create_task(self.stopping.wait())
        while not self.stopping.is_set():
            process = await asyncio.create_subprocess_exec(
                *words, pass_fds=[self.listener.fileno()], start_new_session=True
            )
            ended = asyncio.create_task(process.wait())
            await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
            if self.stopping.is_set():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await ended
                return
            logger.error("a worker ended", extra={"exit_code": process.returncode})
            await asyncio.wait([stopping], timeout=RESTART_S)
