"""Measure the HTTP service under load: clicks with a new top 10, by real connections on loopback.

python experiments/benchmarks/service.py --run=runs/ttt

The load comes from wrk (Debian: apt-get install wrk), which shares the machine with the service.
Each request clicks a random item in one of the sessions in turn, and is answered when the click is
on disk. Beside it, in the same order of connections: an empty handler of FastAPI on uvicorn, and
Recommender called directly, with as many sessions in a call as there are connections; and the CPU
time that a click takes in the HTTP workers and in the device process. Then what a click costs
after 10 and after 10,000 others, over one connection, in turns; and with --live, the
memory and the store of so many sessions.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from command_line import Figures, run, write_json
from process_usage import cpu_seconds, memory_mb, workers_of
from timing import machine

from data_prep.settings import UserError, option
from ttt4rec_jax.cli.command import FinishedRun

ROOT = Path(__file__).parents[2]
K = 10
LIVE_S = 10  # of clicks in all live sessions, between two looks at their number
EMPTY = """
import sys, uvicorn
from fastapi import FastAPI, Response
app = FastAPI()
@app.post("/empty")
async def empty():
    return Response(b"{}", media_type="application/json")
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
"""
CLICKS = """
local ids = {}
for line in io.lines("ids.txt") do ids[#ids + 1] = line end
local items = {}
for line in io.lines("items.txt") do items[#items + 1] = line end
local headers = {["Content-Type"] = "application/json"}
local n = START
request = function()
  n = n + 1
  local body = '{"items":["' .. items[math.random(#items)] .. '"],"k":10}'
  return wrk.format("POST", "/v1/sessions/" .. ids[n % #ids + 1] .. "/clicks", headers, body)
end
"""
OPEN = """
local file = io.open("ids.txt", "a")
request = function() return wrk.format("POST", "/v1/sessions") end
response = function(status, headers, body)
  if status == 201 then file:write(body:match('"id": "([^"]+)"'), "\\n") file:flush() end
end
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceFlags(Figures, FinishedRun):
    """The flags of service.py."""

    connections: str = option("1,16,64,256", "Numbers of connections, separated by commas.")
    seconds: float = option(5.0, "Duration of each measurement.", above=0.0)
    sessions: int = option(2000, "Sessions that are clicked in turn.", low=1)
    live: int = option(0, "Also say what so many live sessions take.", low=0)
    workers: int = option(1, "HTTP processes.", low=1)
    work: str = option("", "Folder of the sessions; default: a temporary one.", path=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_run()
        if not shutil.which("wrk"):
            raise UserError("wrk is not installed; the load comes from it: apt-get install wrk")


class Wrk:
    """The load generator, in the folder that holds ids.txt and items.txt."""

    def __init__(self, folder: Path, port: int):
        self.folder = folder
        self.port = port

    def run(
        self, script: str, connections: int, seconds: float, path: str = "/", start: int = 0
    ) -> dict:
        """Return requests/s, milliseconds (p50, p99), and answers that were no success.

        start: the place in ids.txt of the first session that is clicked.
        """
        (self.folder / "load.lua").write_text(script.replace("START", str(start)))
        flags = ["-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "10s"]
        address = f"http://127.0.0.1:{self.port}{path}"
        command = ["wrk", *flags, "-s", "load.lua", address]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
        found = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
        if not found:
            raise UserError(f"wrk said: {done.stdout[-300:]}")
        return {
            "per_s": float(found[1]),
            "p50_ms": milliseconds(done.stdout, "50%"),
            "p99_ms": milliseconds(done.stdout, "99%"),
            "failed": int(failed[1]) if failed else 0,
        }


def milliseconds(text: str, share: str) -> float:
    """Return a quantile that wrk printed."""
    found = re.search(rf"{share} +([\d.]+)(us|ms|s)", text)
    if not found:
        raise UserError(f"wrk printed no {share} in {text[-300:]}")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def served(flags: ServiceFlags, folder: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """Hold a service that is ready: (port, process)."""
    port = free_port()
    command = [
        *(sys.executable, str(ROOT / "experiments" / "serve.py")),
        *(f"--run={Path(flags.run).resolve()}", f"--port={port}", f"--workers={flags.workers}"),
        *(f"--data_dir={flags.data_dir}", f"--cache_dir={flags.cache_dir}"),
    ]
    with open(folder / "serve.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait(port, "/readyz", process)
        yield port, process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def empty_handler() -> Iterator[int]:
    """Hold an empty handler: its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", EMPTY, str(port)])
    try:
        wait(port, "/docs", process)
        yield port
    finally:
        process.terminate()
        process.wait()


def wait(port: int, path: str, process: subprocess.Popen) -> None:
    """Wait until a server answers by 200. Raises UserError."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    raise UserError("the server did not start; see serve.log in --work")


def open_sessions(wrk: Wrk, count: int) -> None:
    """Open sessions, and write their ids into ids.txt."""
    ids = wrk.folder / "ids.txt"
    ids.write_text("")
    while len(ids.read_text().split()) < count:
        wrk.run(OPEN, 64, 1 if count < 10_000 else 10)
    ids.write_text("\n".join(ids.read_text().split()[:count]) + "\n")


def recommender_rates(flags: ServiceFlags, counts: list[int]) -> tuple[dict[int, float], list[str]]:
    """Return clicks with a top 10 per second of Recommender itself, by batch; and all ids."""
    from ttt4rec_jax import Recommender

    recommender = Recommender.load(flags.run, flags.data_dir, flags.cache_dir)
    ids = recommender.items.ids
    rng = np.random.default_rng(0)
    rates = {}
    for count in counts:
        sessions = [recommender.open_session() for _ in range(count)]
        clicks = [ids[i] for i in rng.integers(0, len(ids), count)]
        seconds = []
        start = time.monotonic()
        while len(seconds) < 5 or time.monotonic() < start + flags.seconds:
            before = time.perf_counter()
            recommender.observe_many(sessions, clicks, K)
            seconds.append(time.perf_counter() - before)
        rates[count] = count / float(np.median(seconds))
    return rates, [str(id) for id in ids]


def cost_by_history(port: int, items: list[str], repeats: int = 400) -> dict[str, float]:
    """Return the median milliseconds of a click after 10 and after 10,000 others, in turns."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Content-Type": "application/json"}

    def ask(path: str, body: dict | None = None) -> dict:
        connection.request("POST", path, json.dumps(body) if body else None, headers)
        return json.loads(connection.getresponse().read())

    seconds: dict[int, list[float]] = {10: [], 10_000: []}
    sessions = {count: ask("/v1/sessions")["id"] for count in seconds}
    for count, id in sessions.items():
        for _ in range(0, count, 100):
            ask(f"/v1/sessions/{id}/clicks", {"items": items[: min(100, count)], "k": K})
    for turn in range(repeats):
        for count, id in sessions.items():
            start = time.perf_counter()
            ask(f"/v1/sessions/{id}/clicks", {"items": [items[turn % len(items)]], "k": K})
            seconds[count].append(time.perf_counter() - start)
            if count == 10 and turn % 20 == 19:  # a new one: this one is no longer short
                sessions[count] = ask("/v1/sessions")["id"]
                ask(f"/v1/sessions/{sessions[count]}/clicks", {"items": items[:10], "k": K})
    return {f"after {count:,}, ms": 1e3 * float(np.median(s)) for count, s in seconds.items()}


def measure_load(
    flags: ServiceFlags, wrk: Wrk, process: subprocess.Popen, connections: int
) -> dict[str, float]:
    """Return what `Wrk.run` does, and microseconds of CPU time a click by the service's parts."""

    def taken() -> tuple[float, float]:
        return sum(map(cpu_seconds, workers_of(process))), cpu_seconds(process.pid)

    before = taken()
    load = wrk.run(CLICKS, connections, flags.seconds)
    clicks = load["per_s"] * flags.seconds
    workers, device = (1e6 * (b - a) / clicks for a, b in zip(before, taken(), strict=True))
    return load | {"worker_us": workers, "device_us": device}


def measure_live(flags: ServiceFlags, wrk: Wrk, process: subprocess.Popen) -> dict[str, float]:
    """Return what many live sessions take, each of which is clicked at least once."""
    before = memory_mb(process)
    open_sessions(wrk, flags.live)
    start = time.monotonic()
    clicks = 0
    while clicks < flags.live:  # each once at least
        load = wrk.run(CLICKS, 256, LIVE_S, start=clicks)
        clicks += int(load["per_s"] * LIVE_S)
    size = sum(file.stat().st_size for file in wrk.folder.glob("sessions.sqlite3*")) / 1e6
    return {
        "live sessions": flags.live,
        "clicks": clicks,
        "clicks/s over all of them": clicks / (time.monotonic() - start),
        "memory before, MB": before,
        "memory after, MB": memory_mb(process),
        "store, MB": size,
    }


def main(flags: ServiceFlags) -> None:
    before = machine()
    counts = [int(count) for count in flags.connections.split(",")]
    rates, items = recommender_rates(flags, counts)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(flags.work or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "items.txt").write_text("\n".join(items) + "\n")
        with empty_handler() as port:
            script = 'wrk.method = "POST"'
            empty = [Wrk(folder, port).run(script, n, flags.seconds, "/empty") for n in counts]
        with served(flags, folder) as (port, process):
            wrk = Wrk(folder, port)
            open_sessions(wrk, flags.sessions)
            wrk.run(CLICKS, counts[-1], 2)
            loads = [measure_load(flags, wrk, process, count) for count in counts]
            costs = cost_by_history(port, items)
            live = measure_live(flags, wrk, process) if flags.live else {}
    print(before)
    print(
        "connections  clicks/s  p50 ms  p99 ms  failed  empty/s  Recommender/s  of empty  of it  "
        "worker us  device us"
    )
    rows = []
    for count, load, nothing in zip(counts, loads, empty, strict=True):
        row = {"connections": count, **load, "empty_per_s": nothing["per_s"]}
        row["recommender_per_s"] = rates[count]
        rows.append(row)
        print(
            f"{count:11,}  {load['per_s']:8,.0f}  {load['p50_ms']:6.1f}  {load['p99_ms']:6.1f}  "
            f"{load['failed']:6}  {nothing['per_s']:7,.0f}  {rates[count]:13,.0f}  "
            f"{load['per_s'] / nothing['per_s']:8.2f}  {load['per_s'] / rates[count]:5.2f}  "
            f"{load['worker_us']:9.0f}  {load['device_us']:9.0f}"
        )
    few, many = costs.values()
    for name, value in {**costs, "ratio": many / few, **live}.items():
        print(f"{name:28} {value:12,.2f}")
    print(f"load at the end {[round(x, 2) for x in os.getloadavg()]}")
    figures = {"rows": rows, "costs": costs, "live": live}
    write_json(flags.json, {"machine": before, **figures})


if __name__ == "__main__":
    sys.exit(run(str(__doc__), ServiceFlags, main))
