"""Two real processes on this machine train one run, are killed, and go on."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep.settings import UserError
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.parallel import processes

MAIN = Path(__file__).parents[2] / "experiments" / "main.py"
FLAGS = [
    "--dataset=synthetic",
    "--model=sasrec",
    "--targets=every",
    "--loss=softmax",
    "--dim=8",
    "--epochs=3",
]
FLAGS += ["--length_buckets=1", "--batch_size=64"]
LIMIT_S = 240


def start(run_dir: Path, environment: dict, *more: str) -> list[subprocess.Popen]:
    """Both processes of a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = [
        *FLAGS,
        f"--run_dir={run_dir}",
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        *more,
    ]
    commands = [[sys.executable, str(MAIN), *together, f"--process_id={i}"] for i in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen(command, env=environment, **pipes) for command in commands]


def test_two_processes_train_are_killed_and_go_on(environment, tmp_path):
    environment = environment | {"JAX_NUM_CPU_DEVICES": "1"}
    alone = [sys.executable, str(MAIN), *FLAGS, f"--run_dir={tmp_path / 'alone'}"]
    subprocess.run(alone, env=environment, check=True, capture_output=True, timeout=LIMIT_S)

    run = tmp_path / "two"
    begun = start(tmp_path / "two", environment, "--mesh=data:2", "--data_placement=host")
    deadline = time.monotonic() + LIMIT_S
    while not any(path.name.isdecimal() for path in (run / "checkpoints" / "last").glob("*")):
        assert time.monotonic() < deadline and all(process.poll() is None for process in begun), (
            begun[0].communicate()[0]
        )
        time.sleep(0.05)
    for process in begun:
        process.send_signal(signal.SIGKILL)
    for process in begun:
        process.wait()
        process.stdout.close()
    assert not (run / "result.json").exists()

    first, second = start(run, environment, "--mesh=model:2", "--resume")
    output, other = (process.communicate(timeout=LIMIT_S)[0] for process in (first, second))
    assert (first.returncode, second.returncode) == (0, 0), output + other
    assert "resumed after epoch" in output and "epoch   3/3" in output
    assert "epoch" not in other and "HR@10" not in other  # the first tells, the second helps
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("alone", "two")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    tests = [
        json.loads((tmp_path / name / "result.json").read_text())["test"]
        for name in ("alone", "two")
    ]
    for protocol in ("sampled", "full"):
        np.testing.assert_allclose(*(test[protocol]["ndcg@10"] for test in tests), rtol=0.03)


@pytest.mark.parametrize(
    "found, several",
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),
        ({"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_STEP_NODELIST": "a,b", "SLURM_NTASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_which_clusters_are_joined(found, several):
    assert processes.is_one_of_several(found) == several


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"num_processes": 2}, "--coordinator and --num_processes: give both"),
        ({"coordinator": "a:1"}, "--coordinator and --num_processes: give both"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "--process_id: found 2, expected less than",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, told):
    with pytest.raises(UserError, match=told):
        RunConfig(**flags)
