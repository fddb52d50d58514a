"""The service in this process, and its real processes."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from ttt4rec_jax.service.app import make_app
from ttt4rec_jax.service.device import Device
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import CONTROL, Answer
from ttt4rec_jax.service.settings import ServiceConfig
from ttt4rec_jax.service.sqlite_store import SqliteStore

ROOT = Path(__file__).parents[2]
REDIS_SERVER = shutil.which("valkey-server") or shutil.which("redis-server")


class LocalLink:
    """Asks a Device of the same process."""

    def __init__(self, load, store, config):
        self.device = Device(load, store, config, self.deliver)

    async def ask(self, request):
        if request.kind in CONTROL:
            return await self.device.control(request)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        try:
            self.device.submit(request, (loop, future))
        except Problem as problem:
            return Answer.of(problem)
        return await future

    @staticmethod
    def deliver(answers):
        def resolve(future, answer):
            if not future.done():
                future.set_result(answer)

        for (loop, future), answer in answers:
            loop.call_soon_threadsafe(resolve, future, answer)


@contextlib.contextmanager
def local_service(models, folder, api_key="", now=time.time, **settings):
    """(a link, a function that makes an application) of a service in this process."""
    defaults = {"max_batch": 8, "sessions": str(folder / "sessions.sqlite3")}
    config = ServiceConfig(**defaults | settings)
    store = SqliteStore(config.sessions, config.session_ttl_s, config.keep_clicks, now)
    link = LocalLink(lambda: models, store, config)
    link.device.batcher.start()  # without compiling every shape first
    link.device.is_ready = True
    try:
        yield link, make_app(config, lambda: link, api_key)
    finally:
        link.device.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Process:
    """`ttt4rec serve` in a folder of its own."""

    def __init__(self, folder: Path, environment: dict, *flags: str, port: int | None = None):
        self.port = port or free_port()
        self.folder = folder
        self.command = [
            *(sys.executable, str(ROOT / "experiments" / "serve.py")),
            *(f"--port={self.port}", *flags),
        ]
        self.environment = environment
        self.log = folder / f"serve-{self.port}.log"
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self.start()

    def start(self) -> None:
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def wait_until_ready(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/readyz").status_code == 200:
                    return
            time.sleep(0.05)
        raise TimeoutError(self.log.read_text()[-3000:])

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for file in children for pid in file.read_text().split()]

    def kill(self, with_workers: bool = False) -> None:
        """Kill -9."""
        workers = self.workers() if with_workers else []
        self.process.kill()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        self.client.close()
        return self.process.wait(60)


@contextlib.contextmanager
def redis_server(folder: Path, *flags: str):
    """(the process, the address) of a server that forces each write to disk."""
    port = free_port()
    process = start_redis(folder, port, *flags)
    try:
        yield process, f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def start_redis(folder: Path, port: int, *flags: str) -> subprocess.Popen:
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    where = ["--port", str(port), "--dir", str(folder), "--bind", "127.0.0.1"]
    process = subprocess.Popen([REDIS_SERVER, *where, *durable, *flags], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process
        time.sleep(0.02)
    raise TimeoutError("redis-server does not answer")
