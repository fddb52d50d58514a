"""The command experiments/compare.py as a user meets it."""

import json
import os

import pytest
from helpers import assert_one_line, make_finished_run, run_script, try_mistakes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("work")
    for seed in range(2):
        make_finished_run(cwd / "runs" / f"sas-{seed}", "sasrec", seed)
        make_finished_run(cwd / "runs" / f"ttt-{seed}", "ttt4rec", seed, shift=2.5)
    return cwd


def test_a_comparison_prints_a_table_and_writes_json_without_importing_jax(runs):
    names = [f"runs/{name}" for name in ("sas-0", "sas-1", "ttt-0", "ttt-1")]
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    flags = ["--json=comparison.json", "--protocol=full"]
    done = run_script("compare", environment, *names, *flags, cwd=runs)
    assert done.returncode == 0, done.stderr
    comparison = json.loads((runs / "comparison.json").read_text())
    assert list(comparison["results"]) == ["full"]
    assert comparison["systems"]["ttt4rec"]["runs"] == names[2:]
    ndcg = comparison["results"]["full"]["differences"]["ttt4rec"]["ndcg@10"]
    assert f"[{ndcg['low']:+.4f}, {ndcg['high']:+.4f}]" in done.stdout
    assert "ttt4rec - sasrec, over users and seeds" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"jax", "flax"}


MISTAKES = {
    "": "RUN: missing",
    "runs/sas-0": "only one run",
    "runs/sas-0 runs/nowhere": "runs/nowhere: not there",
    "runs/sas-0 runs/ttt-0 --protocol=ful": "'ful'",
    "runs/sas-0 runs/ttt-0 --jsn=x": "--jsn: there is no such flag (did you mean '--json'?)",
    "runs/sas-0 runs/ttt-0 --json=nowhere/x.json": "nowhere/x.json",
}


@pytest.fixture(scope="module")
def outcomes(runs):
    return try_mistakes("compare", MISTAKES, runs)


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_clear_line(outcomes, flags):
    assert_one_line(outcomes[flags], MISTAKES[flags])
