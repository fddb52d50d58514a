"""A model and an inner learner of one's own: from Python and from the command line."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from flax import nnx
from own_models import DecayedMean, cubic

import ttt4rec_jax as t4r
from ttt4rec_jax import __main__ as command
from ttt4rec_jax.config import MODELS
from ttt4rec_jax.config.models import CUSTOM, INNER
from ttt4rec_jax.models import custom
from ttt4rec_jax.serving.load_export import load_export
from ttt4rec_jax.ttt.inner import INNER_LEARNERS

NAME = "own_models:DecayedMean"
FLAGS = ["--dataset=synthetic", "--dim=8", "--max_len=5", "--epochs=1", "--program_cache=none"]


@pytest.fixture(scope="module")
def single(data):
    """A run of the class, with options of its own."""
    return t4r.train(data, DecayedMean, decay=0.5, power=2, **TINY)


def forget():
    """Forget what was imported, as a new process does."""
    for name in list(CUSTOM):
        del CUSTOM[name], MODELS[name]
    for name in [name for name in INNER if ":" in name]:
        INNER.remove(name)
        del INNER_LEARNERS[name]


def test_it_trains_and_its_options_matter(data, single):
    assert (single.config.model.model, single.config.model.power) == (NAME, 2)
    t4r.register("mine", DecayedMean)
    table = t4r.sweep(data, "mine", decay=[0.25, 0.5], **TINY)
    same, other = table.sort("decay").to_dicts()
    assert same["test full/ndcg@10"] == single.test["full"]["ndcg@10"]  # 0.5 ** 2
    assert other["test full/ndcg@10"] != same["test full/ndcg@10"]


def test_its_run_is_loaded_only_with_its_code_named(data, single, tmp_path):
    kept = single.save(tmp_path / "run")
    forget()
    with pytest.raises(t4r.UserError, match="is code outside this package"):
        t4r.load(kept.path)
    assert t4r.load(kept.path, model=DecayedMean).test == single.test
    forget()
    assert isinstance(t4r.load(kept.path, model=NAME).model(), DecayedMean)


def test_it_trains_on_a_mesh(data, single):
    spread = t4r.train(data, DecayedMean, decay=0.5, power=2, mesh="data:4,model:2", **TINY)
    assert spread.history[-1]["loss"] == pytest.approx(single.history[-1]["loss"], rel=1e-4)
    assert spread.test["full"]["ndcg@10"] == pytest.approx(single.test["full"]["ndcg@10"], abs=2e-3)


def test_the_command_line_trains_resumes_recommends_exports_and_compares(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.setattr("jax.config.update", lambda *arguments: None)
    model = f"--model={NAME}"

    def ttt4rec(*argv):
        forget()
        code = command.main(["ttt4rec", *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    argv = ["train", model, "--decay=0.3,0.6", "--run_dir=sweep", *FLAGS]
    assert ttt4rec(*argv)[0] == 0
    code, _, error = ttt4rec("train", "--resume", "--run_dir=sweep")
    assert code == 2 and f"give {model}" in error
    assert ttt4rec("train", "--resume", "--run_dir=sweep", model)[0] == 0
    run = "--run=sweep/decay=0.6"
    code, _, error = ttt4rec("recommend", run, "--user=3", "--program_cache=none")
    assert code == 2 and f"give {model}" in error
    code, output, _ = ttt4rec("recommend", run, "--user=3", model, "--program_cache=none")
    assert code == 0 and "user 3" in output
    assert ttt4rec("export", run, "--output=export", model)[0] == 0
    ids = data.items["id"].to_list()
    history = [[ids[4], ids[2]]]
    (expected,) = t4r.load("sweep/decay=0.6", model=NAME).recommender().recommend(history, k=5)
    (found,) = load_export(Path("export")).recommend(history, k=5)
    assert found.ids == expected.ids
    assert np.allclose(found.scores, expected.scores, rtol=1e-5)
    assert ttt4rec("compare", "sweep")[0] == 2
    code, output, _ = ttt4rec("compare", "sweep", model)
    assert code == 0 and "decay=0.6" in output
    with pytest.raises(SystemExit):
        ttt4rec("train", model, "--help")
    output = capsys.readouterr().out
    assert f"Options of {model}." in output and "  --decay=0.8\n" in output


def test_an_inner_learner_trains_and_streams(data, tmp_path):
    options = {**TINY, "inner": "own_models:cubic", "mini_batch_size": 2, "initializer_range": 0.1}
    run = t4r.train(data, "ttt4rec", **options)
    t4r.register_inner("mine", cubic)
    assert t4r.train(data, "ttt4rec", **options | {"inner": "mine"}).test == run.test
    recommender = run.recommender()
    ids = data.items["id"].to_list()[:7]
    session = recommender.open_session()
    for id in ids:
        session.observe(id)
    (whole,) = recommender.recommend([ids], k=5, whole_history=True)
    assert session.recommend(k=5).ids == whole.ids
    forget()
    with pytest.raises(t4r.UserError, match="--inner: 'own_models:cubic' is code outside"):
        t4r.load(run.path)
    assert t4r.load(run.path, inner=cubic).test == run.test


class Untrained(DecayedMean):
    capabilities = t4r.Capabilities(("last",), trained=False)


class WrongUses(DecayedMean):
    uses = ("decay",)


class WrongConfig(DecayedMean):
    config_class = dict


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("sasrec", DecayedMean, "'sasrec' is a model of this package"),
        ("mine", dict, "expected a class that extends nnx.Module"),
        ("mine", nnx.Linear, "has neither encode and item_vectors nor score"),
        ("mine", Untrained, "capabilities.trained=False"),
        ("mine", WrongUses, "'mine' uses decay; expected names among num_blocks"),
        ("mine", WrongConfig, "expected a frozen dataclass that extends ModelConfig"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, cls, message):
    with pytest.raises(t4r.UserError, match=message):
        t4r.register(name, cls)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (f"--model={NAME}s", "has no attribute 'DecayedMeans'"),
        ("--model=no_module:Mine", "No module named 'no_module'"),
        ("--inner=own_models:DecayedMean", "expected an InnerLearner"),
        ("--model=sasrec,own_models:DecayedMean --decay=0.1", "--model=sasrec does not have"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path, monkeypatch, capsys, flag, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    assert command.main(["ttt4rec", "train", *FLAGS, *flag.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "found_here.py").write_text("from own_models import DecayedMean as Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    custom.import_model("found_here:Mine")
    assert "found_here:Mine" in MODELS
