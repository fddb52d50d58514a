"""What experiments/main.py does if a run cannot start, cannot be resumed, or is interrupted."""

import os
import signal

import pytest

from data_prep.settings import DataConfig, UserError
from ttt4rec_jax.cli import run
from ttt4rec_jax.cli.main import main
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.pipeline.resume import check_folder
from ttt4rec_jax.runs.folder import RunFolder

TINY = ["main.py", "--dataset=synthetic", "--dim=8", "--program_cache=none", "--run_dir=run"]


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """The list of experiments that came as far as training, which does nothing here.

    Folders are of the test's own.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTT4REC_CACHE_DIR", str(tmp_path / "prepared"))
    experiments = []
    monkeypatch.setattr(run, "train_all", experiments.append)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # A shell's background jobs start with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield experiments
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_same_command_with_resume_starts_what_was_killed_before_it_started(
    experiments, capsys, tmp_path
):
    RunFolder(tmp_path / "run").path.mkdir()
    (tmp_path / "run" / ".lock").write_text("process 1 on another\n")
    (tmp_path / "run" / "config.json.part").write_text("{")
    assert main([*TINY, "--resume"]) == 0
    assert "nothing to resume in run: starting there" in capsys.readouterr().out
    assert experiments[0].combinations[""].model.dim == 8


def test_a_path_alone_that_holds_no_run_may_be_mistyped(experiments, capsys, tmp_path):
    assert main(["main.py", "--resume", "--run_dir=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not experiments and not (tmp_path / "nowhere").exists()


def test_a_folder_that_another_process_uses_is_refused(experiments, capsys, tmp_path):
    with RunFolder(tmp_path / "run").locked():
        assert main([*TINY, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --run_dir: run is in use by process {os.getpid()}")
    assert error.count("\n") == 1
    assert not experiments


def config_of(**train):
    data = DataConfig(dataset="synthetic")
    return Config(data=data, model=ModelConfig(dim=8), train=TrainConfig(**train))


def make_three_epochs(path, **train):
    """A folder whose run has finished three epochs."""
    folder = RunFolder(path)
    folder.create(config_of(epochs=3, **train))
    folder.write_metrics([{"epoch": epoch} for epoch in (1, 2, 3)])
    return folder


@pytest.mark.parametrize("epochs", [2, 3, 4])
def test_a_run_cannot_be_resumed_with_fewer_epochs_than_it_has_finished(
    experiments, capsys, tmp_path, epochs
):
    folder = make_three_epochs(tmp_path / "run")
    saved = folder.config.read_text()
    code = main([*TINY, "--resume", f"--epochs={epochs}"])
    assert folder.config.read_text() == saved
    if epochs >= 3:
        assert code == 0 and len(experiments) == 1
        return
    assert code == 2 and not experiments
    assert capsys.readouterr().err == (
        "error: --resume: run has 3 finished epochs, but --epochs=2; "
        "give --epochs=3 or more, or start a new run in another --run_dir\n"
    )


def test_nor_can_a_sweep_one_of_whose_runs_has_finished_more(tmp_path):
    make_three_epochs(tmp_path / "seed=1", seed=1)
    combinations = {f"seed={seed}": config_of(epochs=2, seed=seed) for seed in (0, 1)}
    with pytest.raises(UserError, match="seed=1 has 3 finished epochs, but --epochs=2"):
        check_folder(RunFolder(tmp_path), combinations, is_resuming=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("is_started", [True, False])
def test_an_interruption_reports_how_to_resume(
    experiments, capsys, tmp_path, monkeypatch, number, is_started
):
    def train_all(experiment):
        if is_started:
            experiment.root.create(experiment.combinations[""])
        os.kill(os.getpid(), number)

    monkeypatch.setattr(run, "train_all", train_all)
    assert main([*TINY, "--data_placement=host", "--data_dir=my data"]) == 130
    command = (
        "python main.py --resume --run_dir=run '--data_dir=my data' --program_cache=none "
        "--data_placement=host"
    )
    advice = f"resume with: {command}" if is_started else "nothing was started"
    assert capsys.readouterr().err == f"interrupted; {advice}\n"
    # The command that was given, with --resume, resumes it as well.
    monkeypatch.setattr(run, "train_all", experiments.append)
    assert main([*TINY, "--resume"]) == 0
    assert len(experiments) == 1
