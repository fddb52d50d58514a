"""--tensorboard: event files hold the history, each epoch once; without the extra, one line."""

import dataclasses
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fit_runs, small_config

from data_prep.settings import UserError
from ttt4rec_jax.config import RecordConfig, TrainConfig
from ttt4rec_jax.training import tensorboard

ROOT = Path(__file__).parents[2]
RECORD = RecordConfig(ttt_stats=True, tensorboard=True)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(step, value)]} of all event files in a folder, in the order written."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        at = 0
        while at < len(
            content
        ):  # a record: its length, that length's checksum, itself, its checksum
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def expected(history, get):
    return [(line["epoch"], pytest.approx(get(line), rel=1e-6)) for line in history]


def fit_both(dataset, folder, record, epochs):
    """The outcomes of two stacked runs, trained up to so many epochs in folder/0 and folder/1."""
    asked = [
        dataclasses.replace(
            small_config({"initializer_range": r}, epochs=epochs, num_negatives=2), record=record
        )
        for r in (0.1, 0.3)
    ]
    return fit_runs(asked, dataset, folder)


@pytest.fixture(scope="module")
def resumed(random_dataset, tmp_path_factory):
    """(folder, outcomes) of two runs that stopped after an epoch and were resumed to three."""
    pytest.importorskip("tensorboardX")
    folder = tmp_path_factory.mktemp("runs")
    fit_both(random_dataset, folder, RECORD, 1)
    (folder / "0" / "tensorboard" / "events.out.tfevents.1.lost").write_bytes(
        b"of an epoch that no checkpoint has"
    )
    return folder, fit_both(random_dataset, folder, RECORD, 3)


def test_the_events_of_each_run_are_its_history_each_epoch_once(resumed):
    folder, outcomes = resumed
    assert outcomes[0].history[0]["loss"] != outcomes[1].history[0]["loss"]
    for r, history in enumerate(outcome.history for outcome in outcomes):
        found = read(folder / str(r) / "tensorboard")
        assert [line["epoch"] for line in history] == [1, 2, 3]
        assert found["train/loss"] == expected(history, lambda line: line["loss"])
        assert found["train/learning_rate"] == expected(history, lambda line: 0.01)
        for protocol in ("sampled", "full"):
            for name in ("ndcg@10", "hit@5", "auc"):
                tag = f"validation_{protocol}/{name.replace('@', '_')}"
                assert found[tag] == expected(
                    history, lambda line, p=protocol, n=name: line["validation"][p][n]
                )
        for head in (1, 2):
            tag = f"ttt_loss_after/block_1_head_{head}"
            assert found[tag] == expected(
                history, lambda line, h=head: line["ttt_stats"][0]["loss_after"][h - 1]
            )
        assert all(len(points) == 3 for points in found.values())


def test_finished_runs_get_their_events_when_asked_for_them_later(random_dataset, resumed):
    folder, outcomes = resumed
    for r in range(2):
        shutil.rmtree(folder / str(r) / "tensorboard")
    fit_both(random_dataset, folder, dataclasses.replace(RECORD, tensorboard=False), 3)
    assert not (folder / "0" / "tensorboard").exists()
    fit_both(random_dataset, folder, RECORD, 3)
    for r, outcome in enumerate(outcomes):
        found = read(folder / str(r) / "tensorboard")
        assert found["train/loss"] == expected(outcome.history, lambda line: line["loss"])


def test_the_learning_rate_follows_its_schedule_and_unknown_figures_are_left_out():
    line = {"epoch": 2, "loss": 0.5, "validation": {}, "ttt_stats": [{"rate": [0.1, None]}]}
    found = tensorboard.scalars(line, TrainConfig(learning_rate=0.1, schedule="cosine", epochs=4))
    assert found == {
        "train/loss": 0.5,
        "train/learning_rate": pytest.approx(0.05),
        "ttt_rate/block_1_head_1": 0.1,
    }


def test_without_the_extra_a_run_says_what_to_install_before_anything_starts(environment, tmp_path):
    script = (
        "import sys; sys.modules['tensorboardX'] = None\n"
        f"sys.path.insert(0, {str(ROOT / 'experiments')!r}); import main\n"
        "sys.exit(main.main(['main.py', '--dataset=synthetic', '--tensorboard', '--run_dir=run']))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.strip().count("\n") == 0
    assert (
        done.stderr.startswith("error: --tensorboard")
        and 'pip install "ttt4rec_jax[tensorboard]"' in done.stderr
    )
    assert not any(tmp_path.iterdir())


def test_with_the_extra_nothing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="tensorboardX is not installed"):
        tensorboard.check_installed()
    monkeypatch.undo()
    pytest.importorskip("tensorboardX")
    tensorboard.check_installed()
