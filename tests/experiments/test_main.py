"""The command experiments/main.py as a user meets it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from helpers import OPTIMIZED, SMALL, assert_one_line, run_main, try_mistakes

from ttt4rec_jax.cli.main import main

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TTT4REC_TEST_DATA") or ROOT.parent / "shared" / "data").resolve()


def test_a_run_prints_a_table_and_leaves_its_result(synthetic_run):
    cwd, done = synthetic_run
    assert done.returncode == 0, done.stderr
    result = json.loads((cwd / "run" / "result.json").read_text())
    sizes = result["dataset"]
    for text in (
        result["dataset"]["sha256"][:16],
        f"{sizes['users']:,} users",
        "1:99",
        "full catalogue",
        "platform  cpu",
        "epoch   2/2",
    ):
        assert text in done.stdout
    for protocol in ("sampled", "full"):
        metrics = result["test"][protocol]
        for name in ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20", "mrr", "auc"):
            assert f"{metrics[name]:.4f} ± {metrics[f'{name}_ci95']:.4f}" in done.stdout
    assert {"prepare", "compile", "epochs", "evaluate", "total"} <= result["seconds"].keys()
    started_on = {"dataset": {name: result["dataset"][name] for name in ("name", "sha256")}}
    saved = json.loads((cwd / "run" / "config.json").read_text())
    assert saved == result["config"] | started_on
    ranks = pl.read_parquet(cwd / "run" / "test_ranks.parquet")
    # This run has no ties at the boundary.
    hits = (ranks["full_greater"] + ranks["full_ties"] < 10).cast(int)
    assert abs(hits.mean() - result["test"]["full"]["hit@10"]) < 0.01
    assert len(ranks) == sizes["test"]


@pytest.fixture
def in_process(synthetic_run, environment, monkeypatch):
    """Run main.py in this process, in the folder of the synthetic run. Returns the exit code."""
    monkeypatch.chdir(synthetic_run[0])
    for name in ("TTT4REC_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, environment[name])
    before = signal.getsignal(signal.SIGTERM)
    yield lambda *flags: main(["main.py", "--program_cache=none", *flags])
    signal.signal(signal.SIGTERM, before)


def test_a_run_beats_popularity_on_the_built_in_data(synthetic_run, in_process):
    cwd, _ = synthetic_run
    assert in_process("--model=popularity", "--dataset=synthetic", "--run_dir=popularity") == 0
    popularity, trained = (
        json.loads((cwd / name / "result.json").read_text())["test"]["sampled"]
        for name in ("popularity", "run")
    )
    assert trained["ndcg@10"] > popularity["ndcg@10"] + 0.05


def test_a_folder_that_holds_a_run_is_refused(synthetic_run, in_process, capsys):
    cwd, _ = synthetic_run
    before = sorted((p, p.stat().st_mtime_ns) for p in (cwd / "run").rglob("*"))
    assert in_process("--dataset=synthetic", "--run_dir=run") == 2
    assert "--run_dir" in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime_ns) for p in (cwd / "run").rglob("*")) == before


RESUME_MISTAKES = {
    "--dim=32": ("--dim=16", "--dim=32", "start a new run"),
    "--epochs=1": ("run has 2 finished epochs", "--epochs=1", "give --epochs=2 or more"),
}


@pytest.mark.parametrize("flag", RESUME_MISTAKES)
def test_a_run_that_cannot_be_resumed_as_asked_is_refused(synthetic_run, in_process, capsys, flag):
    cwd, _ = synthetic_run
    before = (cwd / "run" / "config.json").read_text()
    assert in_process("--run_dir=run", "--resume", flag) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --resume: ") and error.count("\n") == 1
    for text in RESUME_MISTAKES[flag]:
        assert text in error
    assert (cwd / "run" / "config.json").read_text() == before


def test_interrupted_and_resumed_equals_uninterrupted(environment, synthetic_run):
    cwd, _ = synthetic_run
    environment = dict(environment)
    environment.pop("PYTHONUNBUFFERED", None)  # an epoch's line comes at once even through a pipe
    main_py = [sys.executable, str(ROOT / "experiments" / "main.py")]
    command = [*main_py, "--dataset=synthetic", "--run_dir=cut", *SMALL]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=cwd, env=environment, **pipes)
    for line in process.stdout:
        if line.startswith("epoch   1"):
            process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "--resume --run_dir=cut" in errors, errors
    assert not (cwd / "cut" / "result.json").exists()
    done = run_main(environment, "--run_dir=cut", "--resume", cwd=cwd)
    assert done.returncode == 0, done.stderr
    cut, whole = (json.loads((cwd / name / "result.json").read_text()) for name in ("cut", "run"))
    for key in ("test", "validation", "best_epoch", "dataset", "config"):
        assert cut[key] == whole[key]


MISTAKES = {
    "--modle=ttt4rec": "--model",
    "--model=ttt4rc": "'ttt4rec'",
    "--dataset=ml1n": "'ml1m'",
    "--num_heads=3": "--dim=64",
    "--mini_batch_size=0": "--mini_batch_size",
    "--max_len=0": "--max_len",
    "--targets=every --model=popularity": "--targets=every",
    "--epochs=ten": "--epochs",
    "--learning_rate=nan": "--learning_rate",
    "--resume": "--run_dir",
    "--resume --run_dir=nowhere": "nowhere",
    "epochs=3": "--flag=value",
    "--model=din --targets=every": "a causal model (ttt4rec, sasrec, gru4rec, iclrec), "
    "which --model=din is not",
    "--model=din --loss=softmax": "--loss=softmax",
    "--model=sasrec --num_interests=2": "--model=comirec_sa or --model=comirec_dr",
    "--model=din --score=cosine": "--score: an option of",
    "--batch_tokens=1024": "with --targets=last, give --batch_size",
    "--model=bert4rec --sparse_embeddings": "--sparse_embeddings",
    "--preset=best --model=din": "--preset=best: has no values for --model=din on --dataset=ml1m",
    "--model=sasrec --backbone=mamba": "--backbone: an option of --model=ttt4rec",
}


@pytest.fixture(scope="module")
def outcomes(environment, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("mistakes")
    outcomes = try_mistakes("main", MISTAKES, cwd, environment)
    assert not any(cwd.iterdir())
    return outcomes


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_clear_line_before_jax_is_imported(outcomes, flags):
    assert_one_line(outcomes[flags], MISTAKES[flags])


def test_a_mistake_is_an_exit_code_and_one_line_on_stderr(environment, tmp_path):
    """In a process as a user starts it; the file is looked for after JAX is imported."""
    done = run_main(environment, "--dataset=missing.csv", cwd=tmp_path)
    assert_one_line([done.returncode, done.stdout, done.stderr], "missing.csv")
    assert not any(tmp_path.iterdir())


def test_a_users_own_file(synthetic_run, in_process):
    cwd, _ = synthetic_run
    rows = [f"u{u},i{(u * 12 + t) % 120},{t}" for u in range(50) for t in range(12)]
    (cwd / "mine.csv").write_text("\n".join(["who,what,when", *rows]))
    columns = ["--user_col=who", "--item_col=what", "--time_col=when"]
    assert in_process("--dataset=mine.csv", *columns, "--model=popularity", "--run_dir=mine") == 0
    counts = json.loads((cwd / "mine" / "result.json").read_text())["dataset"]
    assert (counts["users"], counts["interactions"]) == (50, 600)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_the_papers_model_beats_popularity_on_beauty_within_4_gb(environment, tmp_path):
    flags = ["--dataset=beauty", f"--data_dir={DATA}"]
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    main_py = [sys.executable, str(ROOT / "experiments" / "main.py"), *flags]
    done = subprocess.run(
        [sys.executable, "-c", script, *main_py, "--run_dir=ttt", "--epochs=1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | OPTIMIZED,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 4 * 2**20, "peak memory in kB"
    done = run_main(environment, *flags, "--model=popularity", "--run_dir=popularity", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ttt, popularity = (
        json.loads((tmp_path / name / "result.json").read_text())["test"]["sampled"]
        for name in ("ttt", "popularity")
    )
    # Measured independently: popularity counted on training clicks has these metrics; higher ones
    # would be a leak.
    for name, expected in (
        ("hit@5", 0.1746),
        ("ndcg@5", 0.1129),
        ("hit@10", 0.2883),
        ("ndcg@10", 0.1495),
    ):
        assert popularity[name] == pytest.approx(expected, abs=0.005)
    assert ttt["hit@10"] > popularity["hit@10"] + 0.1


def test_a_sweep_trains_every_combination_and_never_redoes_one(environment, synthetic_run):
    cwd, _ = synthetic_run
    shape = ["--dim=8", "--max_len=4", "--epochs=1", "--batch_size=512", "--length_buckets=1"]
    flags = ["--dataset=synthetic", "--run_dir=sweep", *shape, "--initializer_range=0.01,0.5"]
    done = run_main(environment, *flags, "--seed=0,1", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "4 combinations trained together" in done.stdout and "<- best" in done.stdout
    results = {path.parent.name: path for path in (cwd / "sweep").glob("*/result.json")}
    assert set(results) == {
        f"initializer_range={r},seed={s}" for r in ("0.01", "0.5") for s in (0, 1)
    }
    table = pl.read_csv(cwd / "sweep" / "sweep.csv")
    for row in table.iter_rows(named=True):
        result = json.loads(results[row["combination"]].read_text())
        assert row["test full/ndcg@10"] == result["test"]["full"]["ndcg@10"]
        assert result["config"]["model"]["initializer_range"] == float(
            row["combination"].split(",")[0].split("=")[1]
        )
    # A combination whose result is lost comes back to the bit when the sweep is resumed: its
    # program is resumed with all of its members.
    written = {name: path.stat().st_mtime_ns for name, path in results.items()}
    lost = results["initializer_range=0.5,seed=1"]
    before = json.loads(lost.read_text())
    lost.unlink()
    done = run_main(environment, "--run_dir=sweep", "--resume", cwd=cwd)
    assert done.returncode == 0 and "epoch   1/1" not in done.stdout, done.stderr
    after = json.loads(lost.read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    for name, path in results.items():
        assert path == lost or path.stat().st_mtime_ns == written[name]
