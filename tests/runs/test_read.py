"""Reading back what a run left; test_compare.py reads finished runs, good and bad."""

import json

import pytest
from helpers import epoch_lines, make_finished_run

from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.runs import read
from ttt4rec_jax.runs.folder import RunFolder


def test_members_of_a_sweep_and_of_a_run(tmp_path):
    for name in ("b", "a"):
        RunFolder(tmp_path / "sweep" / name).create(Config())
    (tmp_path / "sweep" / "programs").mkdir()
    assert read.members(tmp_path / "sweep") == [tmp_path / "sweep"]
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    assert read.is_sweep(tmp_path / "sweep")
    assert read.members(tmp_path / "sweep") == [tmp_path / "sweep" / name for name in "ab"]
    with pytest.raises(UserError, match="nowhere: not there; name the folder of a run"):
        read.members(tmp_path / "nowhere")


def test_the_epochs_of_a_run(tmp_path):
    assert read.history(tmp_path) == []
    lines = epoch_lines(3)
    RunFolder(tmp_path).write_metrics(lines)
    assert read.history(tmp_path) == json.loads(json.dumps(lines))
    for damaged in ('{"epoch": 1', '{"epoch": 1}\n', "[]\n"):
        RunFolder(tmp_path).metrics.write_text(damaged)
        with pytest.raises(UserError, match=r"metrics.jsonl: cannot be read \([^\n]*; train"):
            read.history(tmp_path)


def test_why_a_run_failed(tmp_path):
    error = RunFolder(tmp_path).error
    assert read.failure(tmp_path) == ""
    error.write_text('{"error": "the loss is not finite"}')
    assert read.failure(tmp_path) == "the loss is not finite"
    for damaged in ("{", "[]", "{}"):
        error.write_text(damaged)
        assert read.failure(tmp_path) == ""


def test_a_run_is_what_was_written(tmp_path):
    run = read.read(make_finished_run(tmp_path / "run", seed=3))
    assert run.config.train.seed == 3 and run.users.tolist() == list(range(300))
    assert run.result == read.result(tmp_path / "run") and set(run.ranks) == {"sampled", "full"}
