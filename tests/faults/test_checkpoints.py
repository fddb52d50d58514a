"""Damaged, cut off or unwritable checkpoints are reported, and an earlier one is used."""

import contextlib
import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import compiled, fit_run, last_state, small_config, without_times

from data_prep import atomic
from data_prep.settings import UserError
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.checkpoint import DIGESTS, MAX_TO_KEEP, Checkpoints
from ttt4rec_jax.runs.folder import RunFolder, write_text
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.load import load_run
from ttt4rec_jax.training import fit

LIKE = {"table": np.zeros((50, 8), np.float32), "step": np.int32(0)}


def tree(step):
    return {"table": np.full((50, 8), step, np.float32), "step": np.int32(step)}


@contextlib.contextmanager
def saving(folder):
    with ThreadPoolExecutor(1) as writer:
        yield Checkpoints(folder, writer)


@pytest.fixture
def saved(tmp_path):
    """A folder in which steps 1 to 3 were saved."""
    with saving(tmp_path / "last") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, tree(step), {"epoch": step})
    return tmp_path / "last"


def largest(step_folder: Path) -> Path:
    return max(
        (path for path in (step_folder / "tree").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def truncate(folder):
    os.truncate(largest(folder), largest(folder).stat().st_size // 2)


def flip_a_bit(folder):
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 1
    largest(folder).write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "bit flipped": flip_a_bit,
    "file missing": lambda folder: largest(folder).unlink(),
    "progress changed": lambda folder: (folder / "progress" / "metadata").write_text(
        '{"epoch": 9}'
    ),
    "digests damaged": lambda folder: (folder / DIGESTS).write_text("{"),
    "digests of no object": lambda folder: (folder / DIGESTS).write_text("[]"),
    "arrays missing": lambda folder: shutil.rmtree(folder / "tree"),
}


def test_the_newest_are_kept_and_read(saved):
    assert Checkpoints(saved).steps() == [2, 3] and MAX_TO_KEEP == 2
    found, progress = Checkpoints(saved).load(jax.tree.map(jax.numpy.asarray, LIKE))
    assert progress == {"epoch": 3} and (found["table"] == 3).all() and found["step"] == 3


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(saved, damage, caplog):
    DAMAGES[damage](saved / "3")
    found, progress = Checkpoints(saved).load(jax.tree.map(jax.numpy.asarray, LIKE))
    assert progress == {"epoch": 2} and (found["table"] == 2).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{saved / '3'}: CHECKPOINT NOT USED" in caplog.text
    DAMAGES[damage](saved / "2")
    with pytest.raises(UserError, match="no checkpoint in it can be used") as error:
        Checkpoints(saved).load(jax.tree.map(jax.numpy.asarray, LIKE))
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_digests_is_read_with_a_warning(saved, caplog):
    (saved / "3" / DIGESTS).unlink()
    _, progress = Checkpoints(saved).load(jax.tree.map(jax.numpy.asarray, LIKE))
    assert progress == {"epoch": 3} and "not verified" in caplog.text
    flip_a_bit(saved / "3")  # unverified damage may still be noticed by orbax
    with contextlib.suppress(UserError):
        found, progress = Checkpoints(saved).load(jax.tree.map(jax.numpy.asarray, LIKE))
        assert progress["epoch"] == found["step"]


def test_leftovers_of_a_killed_process_are_no_checkpoint_and_are_removed(saved):
    leftover = atomic.temporary_path(saved / "4")
    shutil.copytree(saved / "3", leftover)
    (leftover / DIGESTS).unlink()
    with saving(saved) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        checkpoints.save(5, tree(5))
    assert sorted(path.name for path in saved.iterdir()) == ["3", "5"]


@contextlib.contextmanager
def no_file_larger_than(limit):
    """Simulate a full disk: writing more than `limit` bytes to a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_the_others(saved):
    rng = np.random.default_rng(0)
    with saving(saved) as checkpoints, no_file_larger_than(8192):
        checkpoints.save(
            4, {"table": rng.normal(size=(5000, 8)).astype(np.float32), "step": np.int32(4)}
        )
        with pytest.raises(
            UserError,
            match=rf"{saved}: checkpoint 4 cannot be written \({os.strerror(errno.EFBIG)}\)",
        ) as error:
            checkpoints.wait()
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in saved.iterdir()) == ["2", "3"]
    assert not any(map(Checkpoints(saved).problem, (2, 3)))


def test_a_file_that_cannot_be_written_is_one_line_and_what_was_there_stays(tmp_path):
    write_text(tmp_path / "metrics.jsonl", "as it was")
    with (
        no_file_larger_than(1000),
        pytest.raises(UserError, match=r"metrics.jsonl: cannot be written \(File too large\)"),
    ):
        write_text(tmp_path / "metrics.jsonl", "x" * 2000)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == "as it was"


# A run that resumes after a fault


@pytest.fixture(scope="module")
def whole(random_dataset, tmp_path_factory):
    """(settings, executables, outcome, folder) of an undisturbed run of three epochs.

    Each epoch is better than the one before.
    """
    config = small_config({"model": "sasrec"}, epochs=3, batch_size=128)
    folder = tmp_path_factory.mktemp("whole") / "run"
    executables = compiled([config], random_dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "is_better", lambda line, run, select_by: True)
        outcome = fit_run(config, random_dataset, folder, executables)
    assert outcome.best_epoch == 3
    return config, executables, outcome, folder


@pytest.fixture
def ever_better(monkeypatch):
    monkeypatch.setattr(fit, "is_better", lambda line, run, select_by: True)


def same(executables, outcome, folder, expected, expected_folder):
    assert (
        without_times(outcome.history) == without_times(expected.history)
        and outcome.best_epoch == expected.best_epoch
    )
    jax.tree.map(np.testing.assert_array_equal, outcome.test_ranks, expected.test_ranks)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(last_state(executables, path) for path in (folder, expected_folder)),
    )


def newest(folder: Path) -> Path:
    return folder / str(Checkpoints(folder).steps()[-1])


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("damage", ["bit flipped", "file missing"])
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
    whole, tmp_path, which, damage, caplog, ever_better, random_dataset
):
    config, executables, expected, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    damaged = newest(getattr(RunFolder(tmp_path / "run"), which))
    newest_before = newest(RunFolder(tmp_path / "run").last)
    DAMAGES[damage](damaged)
    got = fit_run(config, random_dataset, tmp_path / "run", executables)
    assert f"{newest_before}: CHECKPOINT NOT USED" in caplog.text and str(damaged) in caplog.text
    same(executables, got, tmp_path / "run", expected, folder)


def test_a_lost_checkpoint_is_reported(whole, tmp_path, ever_better):
    _, executables, expected, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    lines = []
    shutil.rmtree(newest(run.last))
    (got,) = fit.fit(executables, run, [run], log=lines.append)
    assert (
        "metrics.jsonl has epoch 3, but there is no usable checkpoint of it; "
        "training continues from epoch 2" in lines
    )
    same(executables, got, run.path, expected, folder)


def test_a_full_disk_stops_a_run_which_resumes_when_there_is_room(whole, tmp_path, ever_better):
    config, executables, expected, folder = whole
    run = RunFolder(tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    run.create(config)

    def fill_the_disk(line):
        if line.startswith("epoch   3/3"):  # epoch 1 is on disk, epoch 2 is being saved
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

    try:
        with pytest.raises(UserError, match="cannot be written") as error:
            fit.fit(executables, run, [run], log=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(run.path) in str(error.value) and "\n" not in str(error.value)
    steps = Checkpoints(run.last).steps()
    assert (
        executables.program.training.num_steps in steps
        and 3 * executables.program.training.num_steps not in steps
    )
    assert not any(map(Checkpoints(run.last).problem, steps))
    (got,) = fit.fit(executables, run, [run], log=lambda line: None)
    same(executables, got, run.path, expected, folder)


def test_the_parameters_of_a_damaged_run_are_those_before_with_a_warning(
    whole, random_dataset, tmp_path, caplog
):
    _, _, _, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    items = Catalogue(list(range(1, 31)), None, np.ones(30, np.int64))
    catalogue.save(run, items, random_dataset, True)
    three = load_run(run.path)[2]
    flip_a_bit(run.best / "3")
    two = load_run(run.path)[2]
    assert f"{run.best / '3'}: CHECKPOINT NOT USED" in caplog.text
    before, _ = Checkpoints(run.best).load(jax.tree.map(jax.numpy.asarray, two), 2)
    jax.tree.map(np.testing.assert_array_equal, two, before)
    assert any(
        (a != b).any() for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(three), strict=True)
    )
    truncate(run.best / "2")
    with pytest.raises(UserError, match="no checkpoint in it can be used"):
        load_run(run.path)


# The lock


def test_a_folder_in_use_is_refused_and_says_by_whom(tmp_path):
    run = RunFolder(tmp_path / "run")
    with (
        run.locked(),
        pytest.raises(UserError, match=f"is in use by process {os.getpid()} on") as error,
        run.locked(),
    ):
        pass
    assert "\n" not in str(error.value)
    with run.locked():
        assert run.is_free(), "a lock is no run"


def test_a_lock_goes_with_the_process_that_is_killed(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from ttt4rec_jax.runs.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=f"process {process.pid}"), RunFolder(tmp_path).locked():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with RunFolder(tmp_path).locked():
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    with RunFolder(tmp_path).locked():
        assert "cannot be locked (No locks available)" in caplog.text


@pytest.mark.parametrize("in_the_way", ["a file", "a folder above it that is a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, in_the_way):
    path = tmp_path / "run"
    if in_the_way == "read-only":
        if os.geteuid() == 0:
            pytest.skip("nothing is read-only to root")
        path.mkdir(mode=0o500)
    else:
        path.write_text("")
        path = path if in_the_way == "a file" else path / "deeper"
    with pytest.raises(UserError, match="cannot be written") as error, RunFolder(path).locked():
        pass
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_settings_of_an_earlier_version_are_read_with_todays_defaults(tmp_path):
    sections = dataclasses.asdict(small_config())
    del sections["train"]["on_nan"], sections["train"]["clip_norm"]
    (tmp_path / "config.json").write_text(json.dumps(sections))
    assert type(small_config()).load(tmp_path / "config.json") == small_config()
