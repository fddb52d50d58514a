"""`ttt4rec serve` as processes: start, signals, workers that die, kills, and mistakes."""

import concurrent.futures
import json
import os
import signal
import sys
import time

import pytest
from helpers import assert_one_line, try_mistakes
from helpers.service import REDIS_SERVER, ROOT, Process

sys.path.insert(0, str(ROOT / "tests" / "faults"))
import kill_service

MISTAKES = {
    "": "--run: missing",
    "--run=nothing": "--run: nothing holds no run and no export",
    "--run=run --run=nothing": "--second: nothing holds no run",
    "--run=a --run=b --run=c": "--run: given 3 times",
    "--run=run --port=70000": "--port: 70000 is out of range",
    "--run=run --keep_clicks=10": "--keep_clicks: 10 is out of range",
    "--run=run --sessions=": "--sessions: empty",
    "--run=run --timeout_s=0": "--timeout_s: 0.0 is out of range",
}


@pytest.fixture(scope="module")
def run(synthetic_run):
    cwd, done = synthetic_run
    assert done.returncode == 0, done.stderr
    return cwd / "run"


def test_mistakes_are_told_in_one_line(run):
    for flags, outcome in try_mistakes("serve", MISTAKES, cwd=run.parent).items():
        assert_one_line(outcome, MISTAKES[flags])


def log_of(service):
    whole, _, _ = service.log.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def test_a_service_lives_and_dies_in_order(run, environment, tmp_path):
    """One process for all, since its start is what costs."""
    environment = environment | {"TTT4REC_API_KEY": "unguessable", "PYTHONPATH": str(ROOT)}
    service = Process(tmp_path, environment, f"--run={run}", "--max_batch=8", "--workers=2")
    http = service.client
    try:
        service.wait_until_ready()
        assert http.get("/v1/items").status_code == 401
        http.headers["Authorization"] = "Bearer unguessable"
        id = http.post("/v1/sessions").json()["id"]
        path = f"/v1/sessions/{id}/clicks"
        assert http.post(path, json={"items": [3], "k": 2}).json()["clicks"] == 1

        # a second service cannot have the port
        (tmp_path / "second").mkdir()
        second = Process(tmp_path / "second", environment, f"--run={run}", port=service.port)
        assert second.process.wait(120) == 2
        assert "--port: cannot listen on 127.0.0.1" in second.log.read_text().splitlines()[-1]

        # a worker that dies is replaced, and the other one answers meanwhile
        before = service.workers()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while set(service.workers()) & {before[0]} or len(service.workers()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert http.get(f"/v1/sessions/{id}").json()["clicks"] == 1

        # no request is dropped while the run is loaded again
        service.process.send_signal(signal.SIGHUP)
        statuses = set()
        while not any(line["event"] == "reloaded" for line in log_of(service)):
            assert time.monotonic() < deadline + 60
            statuses.add(http.post(path, json={"items": [5], "k": 2}).status_code)
        assert statuses == {200}

        # what is in flight when SIGTERM comes is answered
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            asked = [
                threads.submit(http.post, path, json={"items": [7] * 100, "k": 5}) for _ in range(8)
            ]
            while not any(future.done() for future in asked):
                time.sleep(0.001)
            service.process.terminate()
            assert {future.result().status_code for future in asked} == {200}
        assert service.process.wait(60) == 0
        lines = log_of(service)
        assert lines[-1]["event"] == "stopped"
        assert "unguessable" not in service.log.read_text()
    finally:
        service.process.kill()


def test_a_service_can_be_stopped_while_it_compiles(run, environment, tmp_path):
    environment = environment | {"PYTHONPATH": str(ROOT)}
    service = Process(tmp_path, environment, f"--run={run}", "--program_cache=none")
    while "listening" not in service.log.read_text():
        assert service.process.poll() is None, service.log.read_text()
        time.sleep(0.02)
    assert service.stop() == 0
    assert log_of(service)[-1]["event"] == "stopped"


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_kills_lose_and_repeat_nothing(run, environment, tmp_path, store):
    """A short form of kill_service.py, which is a command of its own."""
    if store == "redis" and not REDIS_SERVER:
        pytest.skip("needs valkey-server or redis-server")
    flags = kill_service.KillFlags(kills=2, store=store, clients=4, longest_s=1.0, run=str(run))
    counts = kill_service.attack(flags, tmp_path, environment)
    assert counts["acknowledged"] > 50 and counts["cut off"] + counts["told to wait"] > 0
