"""Kill the service under load, start it again, and look whether its sessions are as acknowledged:

python tests/faults/kill_service.py --kills=30
python tests/faults/kill_service.py --kills=30 --store=redis

Clients click in sessions of their own, each request with an idempotency key, and send a request
again until it is acknowledged. Kills -9 hit the device process, alone or with its workers, after
random delays; with --store=redis every other one hits the server of Redis. In the end each session
must hold the clicks that were sent, each once and in order, and the lists that the service gives
must be those of the same clicks in a new session. Exit code 0: all do.
"""

import collections
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))

from helpers.service import Process, free_port, start_redis  # noqa: E402

from data_prep.settings import UserError, check, option  # noqa: E402
from ttt4rec_jax.cli.command import Command, Section, exit_code  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class KillFlags:
    """The flags of kill_service.py."""

    kills: int = option(30, "Number of kills.", low=0)
    store: str = option("sqlite", "Where sessions are kept.", choices=("sqlite", "redis"))
    clients: int = option(8, "Clients that click at once.", low=1)
    longest_s: float = option(2.0, "Longest time under load before a kill.", above=0.0)
    seed: int = option(0, "Seed of the delays and of what is killed.", low=0)
    run: str = option("", "A run to serve; default: a tiny one, which is trained first.", path=True)

    def __post_init__(self) -> None:
        check(self)


class Client(threading.Thread):
    """Clicks in one session after the other until it is told to stop."""

    def __init__(self, port: int, seed: int, stopping: threading.Event):
        super().__init__(daemon=True)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        self.rng = random.Random(seed)
        self.stopping = stopping
        self.sessions: dict[str, list[str]] = {}  # the clicks that were acknowledged
        self.counts: collections.Counter[str] = collections.Counter()
        self.failure = ""

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                id = self.send("POST", "/v1/sessions", retry=False).get("id")
                if id is None:
                    time.sleep(0.05)
                    continue
                self.sessions[id] = []
                for _ in range(self.rng.randint(1, 150)):
                    if self.stopping.is_set():
                        break
                    self.click(id)
        except Exception as error:
            self.failure = repr(error)

    def click(self, id: str) -> None:
        items = [str(self.rng.randint(1, 300)) for _ in range(self.rng.choice([1, 1, 1, 3]))]
        key = f"{self.rng.getrandbits(64):x}"
        body = {"items": items} | ({"k": 5} if self.rng.random() < 0.8 else {})
        answer = self.send("POST", f"/v1/sessions/{id}/clicks", json=body, key=key)
        self.sessions[id] += items
        if answer["clicks"] != len(self.sessions[id]):
            raise AssertionError(f"{answer['clicks']} clicks after {len(self.sessions[id])}")
        self.counts["acknowledged"] += 1
        self.counts["replayed"] += bool(answer.get("replayed"))

    def send(self, method: str, path: str, json=None, key: str = "", retry: bool = True) -> dict:
        """Return the answer. What was not acknowledged is sent again, unless nothing is lost."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            try:
                answer = self.http.request(method, path, json=json, headers=headers)
                if answer.status_code < 300:
                    return answer.json()
                if answer.status_code not in (429, 503):
                    raise AssertionError(f"{answer.status_code} {answer.text}")
                self.counts["told to wait"] += 1
            except httpx.TransportError:
                self.counts["cut off"] += 1
            if not retry:
                return {}
            time.sleep(0.02)


def tiny_run(folder: Path, environment: dict) -> str:
    """Train a small run and return its folder."""
    flags = ["--dataset=synthetic", "--dim=8", "--epochs=1", "--max_len=6", "--run_dir=run"]
    command = [sys.executable, str(ROOT / "experiments" / "main.py"), *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"no run could be trained: {done.stderr[-2000:]}")
    return str(folder / "run")


def attack(flags: KillFlags, folder: Path, environment: dict) -> dict[str, int]:
    """Kill a service that clients use; return what was counted. Raises AssertionError."""
    rng = random.Random(flags.seed)
    environment = {"PYTHONPATH": str(ROOT)} | environment
    run = flags.run or tiny_run(folder, environment)
    redis_port = free_port()
    redis = start_redis(folder, redis_port) if flags.store == "redis" else None
    where = f"redis://127.0.0.1:{redis_port}/0" if redis else "sessions.sqlite3"
    serve = [
        "--max_batch=8",
        "--workers=2",
        f"--sessions={where}",
        f"--run={run}",
        "--noaccess_log",
    ]
    service = Process(folder, environment, *serve)
    stopping = threading.Event()
    clients = [Client(service.port, i, stopping) for i in range(flags.clients)]
    counts: collections.Counter[str] = collections.Counter()
    try:
        service.wait_until_ready()
        for client in clients:
            client.start()
        for kill in range(flags.kills):
            time.sleep(rng.uniform(0.0, flags.longest_s))
            if redis and kill % 2:
                redis.kill()
                redis.wait()
                counts["kills of Redis"] += 1
                redis = start_redis(folder, redis_port)
                continue
            with_workers = rng.random() < 0.5
            service.kill(with_workers)
            counts["kills of all processes" if with_workers else "kills of the device process"] += 1
            restart(service)
        time.sleep(0.5)
        stopping.set()
        for client in clients:
            client.join(60)
        verify(service, clients, counts)
        assert service.stop() == 0
    finally:
        stopping.set()
        service.process.kill()
        if redis:
            redis.kill()
    for client in clients:
        counts.update(client.counts)
    return dict(counts)


def restart(service: Process) -> None:
    """Start the service again as soon as workers that were left have given up the port."""
    deadline = time.monotonic() + 60
    while True:
        service.start()
        time.sleep(0.1)
        while service.process.poll() is None:
            try:
                service.wait_until_ready()
                return
            except TimeoutError:
                break
        if time.monotonic() > deadline:
            raise TimeoutError(service.log.read_text()[-2000:])


def verify(service: Process, clients: list[Client], counts: collections.Counter) -> None:
    """Compare every session with what its client sent."""
    for client in clients:
        assert not client.failure and not client.is_alive(), client.failure or "a client hangs"
        for number, (id, sent) in enumerate(client.sessions.items()):
            found = service.client.get(f"/v1/sessions/{id}").json()
            assert [item["id"] for item in found["items"]] == sent, (id, sent, found)
            counts["sessions"] += 1
            counts["clicks"] += len(sent)
            if number % 10 == 0 and sent:
                compare_lists(service, id, sent)


def compare_lists(service: Process, id: str, sent: list[str]) -> None:
    """The list of a session is that of a new one with the same clicks."""
    http = service.client
    fresh = http.post("/v1/sessions").json()["id"]
    for start in range(0, len(sent), 100):
        http.post(f"/v1/sessions/{fresh}/clicks", json={"items": sent[start : start + 100]})
    lists = [
        http.get(f"/v1/sessions/{session}/recommendations", params={"k": 5}).json()["items"]
        for session in (id, fresh)
    ]
    scores = [[item["score"] for item in items] for items in lists]
    close = all(abs(a - b) < 1e-3 for a, b in zip(*scores, strict=True))
    assert close, (id, sent, lists)


def main(argv: list[str]) -> int:
    """Attack as the flags say, and print what was counted."""
    command = Command(str(__doc__), (Section("Flags:", KillFlags),))

    def body() -> None:
        flags = command.parse(argv).settings(KillFlags)
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        with tempfile.TemporaryDirectory() as folder:
            counts = attack(flags, Path(folder), environment)
        for name, count in counts.items():
            print(f"{count:8,} {name}")
        print("every acknowledged click was found once, in order")

    return exit_code(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
