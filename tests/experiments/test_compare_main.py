"""The comparison's command line as a user meets it, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import make_finished_run

ROOT = Path(__file__).parents[2]


def main(*arguments, cwd, **environment):
    command = [sys.executable, str(ROOT / "experiments" / "compare.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=120
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("work")
    for seed in range(2):
        make_finished_run(cwd / "runs" / f"sas-{seed}", "sasrec", seed)
        make_finished_run(cwd / "runs" / f"ttt-{seed}", "ttt4rec", seed, shift=2.5)
    return cwd


def test_a_comparison_prints_a_table_and_writes_json_without_importing_jax(runs):
    names = [f"runs/{name}" for name in ("sas-0", "sas-1", "ttt-0", "ttt-1")]
    done = main(
        *names, "--json=found.json", "--protocol=full", cwd=runs, PYTHONPROFILEIMPORTTIME="1"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((runs / "found.json").read_text())
    assert list(found["results"]) == ["full"]
    assert found["systems"]["ttt4rec"]["runs"] == names[2:]
    one = found["results"]["full"]["differences"]["ttt4rec"]["ndcg@10"]
    assert f"[{one['low']:+.4f}, {one['high']:+.4f}]" in done.stdout
    assert "ttt4rec - sasrec, over users and seeds" in done.stdout
    assert not {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()} & {
        "jax",
        "flax",
    }


MISTAKES = {
    "": "RUN",
    "runs/sas-0": "only one run",
    "runs/sas-0 runs/nowhere": "runs/nowhere: not there",
    "runs/sas-0 runs/ttt-0 --protocol=ful": "'ful'",
    "runs/sas-0 runs/ttt-0 --jsn=x": "--jsn=x",
    "runs/sas-0 runs/ttt-0 --json=nowhere/x.json": "nowhere/x.json",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_clear_line(runs, arguments):
    done = main(*arguments.split(), cwd=runs)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.strip().count("\n") == 0
    assert MISTAKES[arguments] in done.stderr


def test_help(tmp_path):
    done = main("--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for text in ("RUN", "--protocol", "--json", "seed", "reference"):
        assert text in done.stdout
