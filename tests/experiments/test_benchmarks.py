"""The benchmarks that need no data still run, on sizes that say nothing of speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.mark.parametrize(
    "name, flags",
    [
        ("layer", ["--lengths=4", "--batch_size=2", "--dim=8", "--repeats=1"]),
        ("evaluation", ["--dataset=", "--items=40", "--users=12", "--dim=8", "--repeats=1"]),
        ("catalogue", ["--items=40", "--dim=8", "--batch_size=8", "--steps=1", "--repeats=1"]),
        ("large", ["--interactions=100000", "--work=work", "--stages=generate,prepare"]),
        (
            "scaling",
            [
                "--items=101",
                "--dim=12",
                "--batch_size=8",
                "--max_len=4",
                "--num_negatives=5",
                "--model=gru4rec",
            ],
        ),
    ],
)
def test_a_benchmark_runs(environment, tmp_path, name, flags):
    environment = environment | {"JAX_NUM_CPU_DEVICES": "8" if name == "scaling" else "1"}
    command = [
        sys.executable,
        str(BENCHMARKS / f"{name}.py"),
        *flags,
        f"--json={tmp_path / 'figures.json'}",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.get("rows") or figures.get("collectives")
