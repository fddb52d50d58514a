"""What experiments/main.py says and does where a run cannot begin, cannot go on, or is asked to stop."""

import os
import signal

import pytest
from fuzz_parsers import MAIN

from ttt4rec_jax.cli import run
from ttt4rec_jax.runs.folder import RunFolder

TINY = ["main.py", "--dataset=synthetic", "--dim=8", "--program_cache=none", "--run_dir=run"]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Folders of the test's own; the list of runs that came as far as training, which does nothing here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTT4REC_CACHE_DIR", str(tmp_path / "prepared"))
    found = []
    monkeypatch.setattr(run, "train_all", lambda combinations, *rest: found.append(combinations))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs begin with it ignored
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_same_command_with_resume_starts_what_was_killed_before_it_began(
    begun, capsys, tmp_path
):
    RunFolder(tmp_path / "run").path.mkdir()
    (tmp_path / "run" / ".lock").write_text("process 1 on another\n")
    (tmp_path / "run" / "config.json.part").write_text("{")
    assert MAIN.main([*TINY, "--resume"]) == 0
    assert "nothing to resume in run: starting there" in capsys.readouterr().out
    assert begun[0][""].model.dim == 8


def test_a_path_alone_that_holds_no_run_may_be_mistyped(begun, capsys, tmp_path):
    assert MAIN.main(["main.py", "--resume", "--run_dir=nowhere"]) == 2
    assert (
        "nowhere" in capsys.readouterr().err and not begun and not (tmp_path / "nowhere").exists()
    )


def test_a_folder_that_another_process_uses_is_refused(begun, capsys, tmp_path):
    with RunFolder(tmp_path / "run").locked():
        assert MAIN.main([*TINY, "--resume"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith(f"error: --run_dir: run is in use by process {os.getpid()}")
        and said.count("\n") == 1
    )
    assert not begun


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("has_begun", [True, False])
def test_a_request_to_stop_says_how_to_go_on(
    begun, capsys, tmp_path, monkeypatch, number, has_begun
):
    def train_all(combinations, dataset, items, root, *rest):
        if has_begun:
            root.create(combinations[""])
        os.kill(os.getpid(), number)

    monkeypatch.setattr(run, "train_all", train_all)
    assert MAIN.main([*TINY, "--data_placement=host", "--data_dir=my data"]) == 130
    again = "go on with: python main.py --resume --run_dir=run '--data_dir=my data' --program_cache=none --data_placement=host"
    assert (
        capsys.readouterr().err == f"interrupted; {again if has_begun else 'nothing was begun'}\n"
    )
    # and so it does, by the command that was given as well
    monkeypatch.setattr(run, "train_all", lambda combinations, *rest: begun.append(combinations))
    assert MAIN.main([*TINY, "--resume"]) == 0 and len(begun) == 1
