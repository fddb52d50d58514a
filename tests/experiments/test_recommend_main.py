"""The command that recommends, on a run that main.py trained and on one without training."""

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from helpers import (
    HISTORIES,
    load_script,
    make_recommender,
    run_commands,
    run_main,
    run_script,
    serving_config,
    write_histories,
)

from ttt4rec_jax import Recommender, metrics
from ttt4rec_jax.cli import recommend as cli
from ttt4rec_jax.config import Config
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder


class Done(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def recommend(monkeypatch, capsys, environment):
    """Return a function that runs the command in this process."""
    script = load_script("recommend")
    monkeypatch.setenv("TTT4REC_CACHE_DIR", environment["TTT4REC_CACHE_DIR"])

    def run(*flags, cwd, input=""):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
        code = script.main(["recommend.py", *flags, "--program_cache=none"])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(environment, tmp_path_factory):
    """A folder with a copy of the folder that main.py wrote."""
    cwd = tmp_path_factory.mktemp("work")
    done = run_main(
        environment,
        "--dataset=synthetic",
        "--dim=8",
        "--epochs=1",
        "--batch_size=1024",
        "--run_dir=first",
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    shutil.copytree(cwd / "first", cwd / "run")
    return cwd


@pytest.fixture(scope="module")
def popularity(random_dataset, tmp_path_factory):
    """A folder with a run of popularity on 30 items with titles, and with files of histories."""
    cwd = tmp_path_factory.mktemp("popularity")
    folder = RunFolder(cwd / "run")
    folder.create(Config(model=serving_config("popularity")))
    clicks = make_recommender(serving_config("popularity"), random_dataset).items.clicks
    titles = [f"Film {i}, the {'first' if i < 3 else 'next'}" for i in range(1, 31)]
    catalogue.save(
        folder, catalogue.Catalogue(list(range(1, 31)), titles, clicks), random_dataset, False
    )
    write_histories(cwd)
    return cwd


def test_a_copied_folder_reproduces_the_metrics_of_its_run(environment, trained):
    result = json.loads((trained / "run" / "result.json").read_text())
    prepared = next(Path(environment["TTT4REC_CACHE_DIR"]).glob("synthetic-*"))
    dataset = load_dataset(prepared)
    recommender = Recommender.load(trained / "run")
    id_of = np.array([None, *recommender.items.ids])
    spans = zip(dataset.offsets[dataset.test.users], dataset.test.positions, strict=True)
    best = recommender.recommend(
        [id_of[dataset.items[start:stop]].tolist() for start, stop in spans], k=20
    )
    targets = id_of[dataset.items[dataset.test.positions]]
    not_in_list = 10**6
    ranks = np.array(
        [
            one.ids.index(target) if target in one.ids else not_in_list
            for one, target in zip(best, targets, strict=True)
        ]
    )
    assert result["test"]["full"]["tie_rate"] == 0
    computed = metrics.summarise(
        metrics.Ranks(ranks, np.zeros_like(ranks), np.full_like(ranks, not_in_list))
    )
    for name in ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20"):
        assert computed[name] == result["test"]["full"][name]
    # a run of an earlier version has no catalogue.parquet: its settings identify the data
    shutil.copytree(trained / "run", trained / "earlier")
    (trained / "earlier" / "catalogue.parquet").unlink()
    earlier = Recommender.load(trained / "earlier", cache_dir=environment["TTT4REC_CACHE_DIR"])
    assert earlier.fingerprint == recommender.fingerprint
    assert earlier.items.ids == recommender.items.ids
    np.testing.assert_array_equal(earlier.items.clicks, recommender.items.clicks)


def test_a_user_of_the_runs_data(recommend, trained):
    done = recommend("--run=run", "--user=3", "--k=4", cwd=trained)
    assert done.code == 0, done.stderr
    assert "user 3: " in done.stdout and "recommended (after " in done.stdout
    assert len(done.stdout.split("recommended")[1].splitlines()) == 5
    done = recommend("--run=run", "--user=nobody", cwd=trained)
    assert done.code == 2 and done.stderr.startswith("error: --user: 'nobody' is not among")


def test_interactive_shows_how_the_list_moves(recommend, trained):
    done = recommend("--run=run", "--interactive", "--k=3", cwd=trained, input="5\nnothing\n7\n\n")
    assert done.code == 0, done.stderr
    assert "ttt4rec" in done.stdout and "every click takes the same time" in done.stdout
    assert "no clicks yet: popular items" in done.stdout and "after 2 clicks" in done.stdout
    assert "'nothing' is not an id, and 0 titles contain it" in done.stdout
    assert " new " in done.stdout


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "-"])
def test_a_file_of_histories_streams_into_a_file_of_recommendations(
    environment, recommend, popularity, form
):
    output = "-" if form == "-" else f"top.{form}"
    histories = "-" if form == "-" else "lists.parquet"
    flags = ["--run=run", f"--histories={histories}", f"--output={output}", "--k=2", "--exclude=12"]
    if form == "-":  # in a process of its own, with real streams
        stdin = (popularity / "lists.jsonl").read_text()
        process = run_script("recommend", environment, *flags, cwd=popularity, input=stdin)
        done = Done(process.returncode, process.stdout, process.stderr)
    else:
        done = recommend(*flags, cwd=popularity)
    assert done.code == 0, done.stderr
    assert "3 users; 1 without clicks received popular items" in done.stderr
    recommender = Recommender.load(popularity / "run")
    expected = dict(
        zip(HISTORIES, recommender.recommend(HISTORIES.values(), k=2, exclude=[12]), strict=True)
    )
    if form in ("-", "jsonl"):
        lines = [
            json.loads(line)
            for line in (
                done.stdout if form == "-" else (popularity / output).read_text()
            ).splitlines()
        ]
        assert [line["user"] for line in lines] == list(HISTORIES)
        for line in lines:
            one = expected[line["user"]]
            assert (line["items"], line["titles"], line["source"]) == (
                one.ids,
                one.titles,
                one.source,
            )
            assert line["scores"] == one.scores.tolist()
    else:
        table = (pl.read_csv if form == "csv" else pl.read_parquet)(popularity / output)
        assert table.columns == ["user", "rank", "item", "score", "title", "source"]
        rows = [
            (user, rank, id, score, title, one.source)
            for user, one in expected.items()
            for rank, (id, score, title) in enumerate(
                zip(one.ids, one.scores.tolist(), one.titles, strict=True), 1
            )
        ]
        assert table.rows() == rows
    assert not [path for path in popularity.iterdir() if path.name.startswith(".")]


def test_a_mistake_half_way_leaves_no_file(recommend, popularity, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "BATCH_HISTORIES", 8)
    (tmp_path / "top.csv").write_text("previous")
    lines = [json.dumps({"user": user, "items": [1]}) for user in range(20)]
    lines.append('{"user": "last", "items": [1, 99]}')
    flags = [f"--run={popularity / 'run'}", "--histories=-", "--output=top.csv"]
    done = recommend(*flags, cwd=tmp_path, input="\n".join(lines))
    expected = "error: histories: 1 ids are not in the run's data: 99"
    assert done.code == 2 and expected in done.stderr.splitlines()[-1]
    assert (tmp_path / "top.csv").read_text() == "previous" and len(list(tmp_path.iterdir())) == 1
    done = recommend(*flags, "--unknown=skip", "--k=40", cwd=tmp_path, input="\n".join(lines))
    assert done.code == 0 and "note: --k=40 exceeds the 30 items" in done.stderr
    assert len((tmp_path / "top.csv").read_text().splitlines()) == 1 + 21 * 29


def test_titles_are_searched_and_shown(recommend, popularity):
    done = recommend(
        "--run=run", "--interactive", "--k=2", cwd=popularity, input="the first\nfilm 29\n\n"
    )
    assert done.code == 0, done.stderr
    assert "'the first' is not an id, and 2 titles contain it:" in done.stdout
    assert re.search(r"29 +Film 29, the next$", done.stdout, re.MULTILINE)
    assert "every click reads the last 6 clicks again" in done.stdout
    done = recommend("--run=run", "--histories=lists.csv", "--user=ann", "--k=2", cwd=popularity)
    assert done.code == 0 and "user ann: 3 clicks" in done.stdout
    assert "Film 7, the next" in done.stdout


def test_moves_of_a_list():
    moves = [cli.format_move(rank, ["a", "b", "c"], id) for rank, id in enumerate("acxb")]
    assert moves == ["=", "+1", "new", "-2"]


MISTAKES = {
    "": "--run",
    "--run=nowhere --user=1": "--run: nowhere holds no run",
    "--run=run": "nothing to do",
    "--run=run --usr=1": "--usr: there is no such flag",
    "--run=run --k=ten": "--k",
    "--run=run --k=0 --user=1": "--k: 0 is out of range",
    "--run=run --histories=lists.csv": "nothing to do",
    "--run=run --output=x.csv": "--output: needs --histories",
    "--run=run --histories=lists.txt --output=x.csv": "'lists.txt' has an unknown format",
    "--run=run --histories=none.csv --output=x.csv": "--histories: no file none.csv",
    "--run=run --histories=lists.csv --output=x.txt": "--output: 'x.txt' has an unknown format",
    "--run=run --histories=lists.csv --output=nowhere/x.csv": "nowhere/x.csv cannot be written",
    "--run=run --interactive --histories=lists.csv": "--interactive",
    "--run=run --unknown=skp --user=1": "'skp'",
}


def test_mistakes_and_help_need_no_jax(environment, popularity):
    commands = [*(flags.split() for flags in MISTAKES), ["--help"]]
    (*mistakes, help), modules = run_commands("recommend", commands, environment, popularity)
    for (code, out, err), (flags, expected) in zip(mistakes, MISTAKES.items(), strict=True):
        assert code == 2 and out == "" and err.count("\n") == 1, flags
        assert err.startswith("error: ") and expected in err
    assert help[0] == 0 and help[2] == ""
    for text in ("--run", "--histories", "--interactive", "--whole_history", "one row per click"):
        assert text in help[1]
    assert not modules & {"jax", "flax", "polars"}


def test_a_mistake_ends_the_process_with_code_2(environment, popularity):
    done = run_script("recommend", environment, "--run=run", cwd=popularity)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: nothing to do") and done.stderr.count("\n") == 1


def test_a_run_with_time_reads_times(recommend, random_dataset, tmp_path, monkeypatch):
    config = serving_config("ttt4rec", time="request", mini_batch_size=4)
    recommender = make_recommender(config, random_dataset)
    monkeypatch.setattr(Recommender, "load", lambda *_: recommender)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    lines = [
        {"user": "ann", "items": [300, 700], "times": [1000, 2000]},
        {"user": "bob", "items": [500], "times": [60]},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "none.jsonl").write_text('{"user": "ann", "items": [300]}')
    flags = ["--run=run", "--k=3", "--at=1970-01-01 01:00:00"]
    done = recommend(*flags, "--histories=x.jsonl", "--output=-", cwd=tmp_path)
    assert done.code == 0, done.stderr
    of_bob = recommender.recommend([[500]], 3, times=[[60]], at=3600)[0]
    of_ann = recommender.recommend([[300, 700]], 3, times=[[1000, 2000]], at=3600)[0]
    printed = [json.loads(line)["items"] for line in done.stdout.splitlines()]
    assert printed == [of_ann.ids, of_bob.ids]
    done = recommend(*flags, "--histories=x.jsonl", "--user=bob", cwd=tmp_path)
    assert done.code == 0 and f"{of_bob.scores[0]:.4f}" in done.stdout, done.stderr
    clicks = "300\n700\n\n"
    done = recommend("--run=run", "--interactive", "--k=3", cwd=tmp_path, input=clicks)
    assert done.code == 0 and "after 2 clicks" in done.stdout, done.stderr
    for wrong, expected in (
        (["--histories=x.jsonl", "--user=bob"], "error: at: missing"),
        (["--histories=none.jsonl", "--user=ann", "--at=9"], "has no times of clicks"),
        (["--histories=x.jsonl", "--user=ann", "--at=soon"], "error: --at: found 'soon'"),
        (["--interactive", "--at=9"], "error: --at: an interactive session"),
    ):
        done = recommend("--run=run", *wrong, cwd=tmp_path)
        assert done.code == 2 and expected in done.stderr, done.stderr
