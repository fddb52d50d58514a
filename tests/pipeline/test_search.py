"""Searching for the best options: the space, the budget, interruptions, the preset."""

import json
import os
import signal
import sys

import pytest

import ttt4rec_jax as t4r
from data_prep.settings import UserError
from ttt4rec_jax.cli.search import command, main
from ttt4rec_jax.pipeline import presets, search_report
from ttt4rec_jax.pipeline.search_space import (
    Choice,
    Range,
    SearchConfig,
    fields_of,
    new_search,
    read,
)

TINY = {"dim": 8, "max_len": 5, "dropout": 0.1, "num_blocks": 1, "epochs": 3}
RATES = "1e-9:0.02:log"


@pytest.fixture(scope="module")
def data():
    return t4r.prepare("synthetic")


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    """A search of seven trials, which Ctrl-C interrupts in its second batch and which goes on."""
    root = tmp_path_factory.mktemp("search") / "run"
    epochs = []

    def interrupt(line):
        epochs.append(line)
        if sum("epoch   1/3" in text for text in epochs) == 5:
            epochs.append("epoch   1/3")  # once
            os.kill(os.getpid(), signal.SIGINT)

    asked = {"trials": 7, "run_dir": root, "learning_rate": RATES, **TINY}
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(t4r.Interrupted):
        t4r.search(data, "sasrec", log=interrupt, **asked)
    signal.signal(signal.SIGINT, handler)
    before = json.loads((root / "search.json").read_text())
    with pytest.raises(UserError, match="started with --epochs=3, found 4"):
        t4r.search(data, "sasrec", resume=True, **asked | {"epochs": 4})
    lines = []
    result = t4r.search(data, "sasrec", resume=True, log=lines.append, **asked)
    return root, before, result, lines


def test_an_interrupted_search_goes_on_with_the_trials_it_would_have_chosen(found):
    _, before, result, lines = found
    states = [trial["state"] for trial in before["trials"]]
    assert states[4:] == ["running"] * 3 and "running" not in states[:4]
    rates = result.trials["learning_rate"].to_list()
    assert result.trials["trial"].to_list() == list(range(7))
    assert [trial["params"]["learning_rate"] for trial in before["trials"]] == rates
    assert any(line.startswith("resumed after epoch") for line in lines)
    assert len(set(rates)) == 7 and all(1e-9 <= rate <= 0.02 for rate in rates)


def test_the_best_trial_alone_has_test_metrics_and_is_what_train_gives(found, data, tmp_path):
    root, _, result, _ = found
    complete = result.trials.filter(result.trials["state"] == "complete")
    best = complete.sort("validation")[-1]
    assert best["validation"][0] == result.best.validation["sampled"]["ndcg@10"]
    assert set(result.trials["state"]) == {"complete", "pruned"}
    results = list(root.glob("trials/*/result.json"))
    assert results == [result.best.path / "result.json"]
    (members,) = root.glob("programs/*/combinations.json")  # of the group with the best trial
    names = json.loads(members.read_text())
    assert result.best.path.relative_to(root).as_posix() in names and len(names) < 7
    kept = {path.parent.relative_to(root).as_posix() for path in root.glob("trials/*/checkpoints")}
    assert kept == set(names)
    assert (root / "search.png").read_bytes()[:4] == b"\x89PNG"
    result.write_preset(tmp_path / "found.json")
    again = t4r.train(data, "sasrec", preset=str(tmp_path / "found.json"), progress=False)
    assert again.config == result.best.config
    assert again.test["full"]["ndcg@10"] == pytest.approx(result.best.test["full"]["ndcg@10"])
    with pytest.raises(
        UserError, match=r"found\.json is for --model=sasrec, found --model=gru4rec"
    ):
        presets.values(str(tmp_path / "found.json"), "gru4rec", "synthetic")
    (tmp_path / "found.json").write_text('{"model": "sasrec", "values": {"dims": 3}}')
    with pytest.raises(UserError, match="unknown option 'dims'"):
        presets.values(str(tmp_path / "found.json"), "sasrec", "synthetic")


def test_a_flag_is_a_range_a_choice_or_a_value():
    fields = fields_of("ttt4rec")
    assert "seed" not in fields
    for name, text, expected in (
        ("learning_rate", "1e-4:1e-2:log", Range(1e-4, 1e-2, True)),
        ("num_blocks", "1:3", Range(1, 3)),
        ("num_blocks", "1,3", Choice((1, 3))),
        ("inner", "linear,mlp", Choice(("linear", "mlp"))),
        ("dropout", "0.5", None),
    ):
        one = read(name, text, fields[name])
        assert one == expected
        assert one is None or read(name, one.text(), fields[name]) == one
    for name, text, message in (
        ("learning_rate", "1:2:3", "has a number of steps"),
        ("learning_rate", "2:1", "lower limit first"),
        ("learning_rate", "0:1:log", "both above 0"),
        ("num_blocks", "1,1", "duplicate"),
        ("num_blocks", "1,x", "'x' is not a whole number"),
        ("inner", "linear,cubic", "'cubic' is not one of linear"),
    ):
        with pytest.raises(UserError, match=message):
            read(name, text, fields[name])


def test_what_is_given_is_not_searched_and_one_program_is_trained_together():
    config = SearchConfig()
    asked = new_search(config, {"model": "sasrec", "dropout": 0.3}, {"epochs": 7, "dropout": 0.1})
    assert asked.space.keys() == {"learning_rate", "num_blocks"}
    assert (asked.fixed["dropout"], asked.fixed["epochs"], asked.batch) == (0.3, 7, 1)
    stacked = new_search(config, {"model": "sasrec", "dropout": 0.3, "num_blocks": 2}, {})
    assert stacked.batch == 4
    with pytest.raises(UserError, match="every option has one value"):
        new_search(config, {"model": "sasrec", "learning_rate": 1.0, **TINY}, {})
    with pytest.raises(UserError, match="popularity: is not trained"):
        new_search(config, {"model": "popularity"}, {})
    with pytest.raises(UserError, match="--eval_negatives: cannot be searched"):
        new_search(config, {"model": "sasrec", "eval_negatives": Range(1, 9)}, {})


def test_the_table_says_when_the_best_value_is_at_the_edge():
    space = {"learning_rate": Range(1e-4, 1e-2, True), "dropout": Range(0.0, 0.5)}
    assert search_report.at_the_edge(space, {"learning_rate": 9.9e-3, "dropout": 0.2}) == [
        "learning_rate=0.0099 is at the edge of 0.0001:0.01:log"
    ]
    assert search_report.at_the_edge(space, {"learning_rate": 1e-3, "dropout": 0.5}) == [
        "dropout=0.5 is at the edge of 0:0.5"
    ]


def test_mistakes_on_the_command_line_are_one_line(found, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = found[0]
    for flags, message in (
        (["--dataset=synthetic", "--model=sasrec", f"--run_dir={root}"], "is not empty"),
        (["--resume", "--run_dir=nowhere"], "holds no search"),
        (["--resume", f"--run_dir={root}", "--dropout=0:1"], "found 0:1; give the same"),
        (["--model=sasrec", "--preset=missing.json"], "is no file of a search"),
        (["--model=sasrec", "--preset=bset"], "did you mean 'best'"),
        (["--model=sasrec", "--mesh=data:2"], "is trained on one device"),
    ):
        assert main(["search.py", *flags]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert "preset_out" in command([]).usage("search.py")
    assert main(["search.py", "--model=sasrec", "--dropout=0.1", "--dry_run"]) == 0
    assert "learning_rate 0.0003:0.01:log" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search.py", "--model=sasrec", "--dataset=synthetic", "--run_dir=new"]) == 2
    assert "pip install 'ttt4rec_jax[search]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
