"""The driver trains what is not finished; reproduce.py lists its plan and names mistakes.

main.py is replaced by a script: ComiRec-DR fails, and TTT4Rec waits to be interrupted.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ttt4rec_jax.paper import command, driver
from ttt4rec_jax.paper.jobs import Plan, jobs, save_plan
from ttt4rec_jax.training.interrupt import Interrupted

MAIN = """
import json, os, pathlib, signal, sys, time
flags = dict(f[2:].split("=", 1) for f in sys.argv[1:] if "=" in f)
folder = pathlib.Path(flags["run_dir"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
(folder / "cores").write_text(json.dumps(cores))
if flags["model"] == "comirec_dr":
    print("error: no luck", file=sys.stderr); sys.exit(2)
if flags["model"] == "ttt4rec" and "--resume" not in sys.argv:
    def stop(*_): sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    (folder / "config.json").write_text(pathlib.Path(sys.argv[0]).with_name("config").read_text())
    time.sleep(60)
"""


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_driver_continues_after_a_failure_and_resumes_after_an_interruption(tmp_path, at_once):
    plan = Plan(
        tmp_path / "out", parts=("figure2",), presets=("fair",), datasets=("beauty",), seeds=1
    )
    save_plan(plan)
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    main = [sys.executable, str(script)]
    (tmp_path / "config").write_text(json.dumps(jobs(plan)[2].combinations[""].to_dict()))
    config = plan.output / "runs/fair/beauty/ttt4rec/seeds=0-0/config.json"

    def interrupt_when_only_ttt4rec_runs():
        stop_waiting = time.monotonic() + 60
        while time.monotonic() < stop_waiting:
            if config.exists() and len(driver.journal(plan.output)) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.02)

    threading.Thread(target=interrupt_when_only_ttt4rec_runs, daemon=True).start()
    messages = []
    with pytest.raises(Interrupted):
        driver.run_all(plan, main, ["--data_dir=there"], at_once, messages.append)
    assert any("failed: no luck" in message for message in messages)
    assert any("fair/beauty/ttt4rec stopped" in message for message in messages)

    driver.run_all(plan, main, ["--data_dir=there"], at_once, messages.append)
    calls = (plan.output / "runs/fair/beauty/ttt4rec/seeds=0-0/calls").read_text().splitlines()
    assert len(calls) == 2
    assert "--resume" not in calls[0]
    assert calls[1].endswith("--resume --data_dir=there")
    cores = [
        json.loads(path.read_text()) for path in plan.output.glob("runs/fair/beauty/*/*/cores")
    ]
    assert {tuple(share) for share in cores} <= {*driver.core_shares(at_once)}
    entries = driver.journal(plan.output)
    exits = [entry["exit"] for entry in entries]
    assert sorted(exits[:2]) == [0, 2]
    assert exits[2] == 130
    assert entries[0]["environment"]["versions"]["python"]


def test_cores_are_divided_completely_and_without_overlap(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 0, 1, 2, 9})
    assert driver.core_shares(2) == [(0, 2, 9), (1, 4)]
    assert driver.core_shares(1) == [(0, 1, 2, 4, 9)]
    assert driver.core_shares(6) == [()] * 6, "more processes than cores: the system decides"


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "ttt4rec_jax", "reproduce", "--quick", "--dry_run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "to train  fair/beauty/ttt4rec" in done.stdout
    assert "26 of 26 jobs to train" in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--datasets=beuty", "--datasets: 'beuty'"),
        ("--seeds=101", "--seeds: 101"),
        ("--presets=best", "--presets: 'best'"),
        ("--jobs=0", "--jobs: 0"),
        ("--tabel1", "--tabel1"),
        ("--report_only --output=nowhere", "--report_only: nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert command.main(["reproduce.py", *arguments.split()]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert output.err.startswith("error: ")
    assert output.err.strip().count("\n") == 0
    assert not any(tmp_path.iterdir())
