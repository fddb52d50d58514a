"""Training from Python: the command line's results, callbacks, threads, interruption."""

import os
import signal
import subprocess
import sys
import threading

import jax
import optuna
import pytest
from own_models import TINY

import ttt4rec_jax as t4r
from ttt4rec_jax import __main__ as command
from ttt4rec_jax.pipeline import heldout


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, ttt4rec_jax; print(sorted({'jax', 'polars', 'flax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
    assert all(hasattr(t4r, name) for name in t4r.__all__)
    assert set(dir(t4r)) == set(t4r.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        t4r.tarin  # noqa: B018


def test_a_run_is_that_of_the_command_line(data, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("SIGINT", "SIGTERM"):  # which the command sets for its process
        number = getattr(signal, name)
        monkeypatch.setattr(signal, "default_int_handler", signal.getsignal(number))
    flags = [f"--{name}={value}" for name, value in TINY.items() if name != "progress"]
    argv = ["train", "--dataset=synthetic", "--model=sasrec", "--run_dir=run", *flags]
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    assert command.main(["ttt4rec", *argv]) == 0
    output = capsys.readouterr().out
    loaded = t4r.load("run")
    assert loaded.test == run.test and loaded.validation == run.validation
    losses = [[line["loss"] for line in of.history] for of in (run, loaded)]
    assert losses[0] == losses[1]
    table = str(loaded)
    assert table in output
    assert table.split("seconds ")[0] == str(run).split("seconds ")[0]


def test_what_a_run_gives(data, run, tmp_path):
    assert run.best_epoch in (1, 2) and len(run.history) == 2
    assert run.validation["full"] == run.history[run.best_epoch - 1]["validation"]["full"]
    assert run.history_table["sampled/ndcg@10"].to_list() == [
        line["validation"]["sampled"]["ndcg@10"] for line in run.history
    ]
    figure = run.plot("hit@10")
    assert len(figure.axes) == 3 and figure._repr_png_().startswith(b"\x89PNG")
    kept = run.save(tmp_path / "kept")
    assert kept.test == run.test and kept.path.exists()
    with pytest.raises(t4r.UserError, match="is not empty"):
        run.save(tmp_path / "kept")
    ids = data.items["id"].to_list()
    history = [ids[3], ids[7]]
    (best,) = run.recommender().recommend([history], k=3)
    vectors = run.model().item_vectors(jax.numpy.arange(1, data.num_items + 1))
    items = jax.numpy.array([[4, 8, 0, 0, 0]])
    scores = vectors @ run.model().encode(items, jax.numpy.array([2]))[0, 0]
    first = int(scores.at[jax.numpy.array([3, 7])].set(-jax.numpy.inf).argmax())
    assert best.ids[0] == ids[first]
    assert "NDCG@10" in run._repr_html_() and repr(run).startswith("Run(sasrec on synthetic: ")


def test_a_temporary_run_goes_with_its_object(data):
    run = t4r.train(data, "popularity", progress=False)
    recommender = run.recommender()
    path = run.path
    with pytest.raises(t4r.UserError, match="popularity is not trained"):
        run.plot()
    del run
    assert not path.exists()
    assert len(recommender.recommend([data.items["id"][:2].to_list()], k=3)[0].ids) == 3


def test_a_thread_can_train_and_nothing_of_the_process_changes(data, run):
    before = dict(jax.config.values)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    lines = []
    trained = []

    def work():
        trained.append(t4r.train(data, "sasrec", log=lines.append, **TINY))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert trained[0].test == run.test
    assert any(line.startswith("epoch   2/2  loss ") for line in lines)
    assert dict(jax.config.values) == before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_callback_can_stop_a_run(data, run):
    seen = []

    def on_epoch(line, params):
        seen.append((line["epoch"], line["validation"]["full"]["ndcg@10"], jax.tree.leaves(params)))
        return "stop" if line["epoch"] == 2 else None

    stopped = t4r.train(data, "sasrec", on_epoch=on_epoch, **TINY | {"epochs": 9})
    assert [epoch for epoch, _, _ in seen] == [1, 2] == [x["epoch"] for x in stopped.history]
    assert stopped.test == run.test
    assert [value for _, value, _ in seen] == run.history_table["full/ndcg@10"].to_list()
    assert all(not x.is_deleted() for _, _, leaves in seen for x in leaves)
    with pytest.raises(t4r.UserError, match="on_epoch: returned True, expected None or 'stop'"):
        t4r.train(data, "sasrec", on_epoch=lambda line, params: True, **TINY)


def test_an_interrupted_run_and_one_whose_callback_raises_resume_to_the_same_bits(
    data, run, tmp_path
):
    def interrupt(line, params):
        os.kill(os.getpid(), signal.SIGINT)

    def fail(line, params):
        raise RuntimeError("the tracker is offline")

    for name, on_epoch, error in (
        ("interrupted", interrupt, t4r.Interrupted),
        ("failed", fail, RuntimeError),
    ):
        folder = tmp_path / name
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(error):
            t4r.train(data, "sasrec", run_dir=folder, on_epoch=on_epoch, **TINY)
        signal.signal(signal.SIGINT, handler)
        resumed = t4r.train(data, "sasrec", run_dir=folder, resume=True, **TINY)
        assert resumed.test == run.test
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    lines = []
    again = t4r.train(data, "sasrec", run_dir=folder, resume=True, log=lines.append, **TINY)
    assert again.test == run.test and "HR@10" in "\n".join(lines)
    del written[folder / ".lock"]  # which names the process
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    with pytest.raises(t4r.UserError, match="exists and is not empty"):
        t4r.train(data, "sasrec", run_dir=folder, **TINY)


def test_optuna_prunes_a_run(data):
    def objective(trial):
        def on_epoch(line, params):
            trial.report(line["validation"]["sampled"]["ndcg@10"], line["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned()

        rate = trial.suggest_categorical("learning_rate", [0.005, 1e-9])
        options = TINY | {"learning_rate": rate}
        return t4r.train(data, "sasrec", on_epoch=on_epoch, **options).validation["sampled"][
            "ndcg@10"
        ]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.GridSampler({"learning_rate": [0.005, 1e-9]}, seed=0)
    pruner = optuna.pruners.ThresholdPruner(lower=0.12)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=2)
    states = {trial.params["learning_rate"]: trial.state.name for trial in study.trials}
    assert states == {0.005: "COMPLETE", 1e-9: "PRUNED"}


def test_a_sweep_is_a_table_of_runs_as_they_are_alone(data, run, tmp_path):
    names = []

    def on_epoch(line, params):
        names.append(line["combination"])

    table = t4r.sweep(
        data,
        model=["sasrec", "popularity"],
        run_dir=tmp_path / "sweep",
        on_epoch=on_epoch,
        **TINY,
    )
    assert table.columns[:3] == ["model", "validation sampled/ndcg@10", "best_epoch"]
    assert set(names) == {"model=sasrec"}
    row = {row["model"]: row for row in table.to_dicts()}["sasrec"]
    assert row["test full/ndcg@10"] == run.test["full"]["ndcg@10"] and row["error"] is None
    assert t4r.load(tmp_path / "sweep" / "model=sasrec").test == run.test
    with pytest.raises(t4r.UserError, match="sweep: a sweep; name the folder of one of its"):
        t4r.load(tmp_path / "sweep")
    more = {"run_dir": tmp_path / "sweep", "resume": True, **TINY, "epochs": 3}
    t4r.sweep(data, model=["sasrec", "popularity"], **more)
    longer = t4r.load(tmp_path / "sweep" / "model=sasrec").history_table
    shorter = run.history_table
    assert len(longer) == 3
    assert longer["full/ndcg@10"][:2].to_list() == shorter["full/ndcg@10"].to_list()
    seeds = t4r.sweep(data, "popularity", seed=range(2), progress=False)
    assert seeds["seed"].to_list() == [0, 1]


def test_a_run_without_the_full_catalogue_has_sampled_metrics_alone(data, tmp_path):
    lines = []
    options = {"progress": False, "log": lines.append, "full_catalogue": False}
    both = t4r.train(data, "popularity", progress=False)
    alone = t4r.train(data, "popularity", run_dir=tmp_path / "run", **options)
    assert alone.test == {"sampled": both.test["sampled"]}
    table = "\n".join(lines)
    assert "full       not ranked (--nofull_catalogue)" in table
    assert "full catalogue" not in table and "HR@10" in table
    assert "test full/ndcg@10" not in t4r.sweep(data, "popularity", seed=[0, 1], **options).columns
    (cold,) = heldout.item_lines({"test_by_item": {"cold": {"targets": 3, **both.test}}})
    (sampled,) = heldout.item_lines({"test_by_item": {"cold": {"targets": 3, **alone.test}}})
    assert len(sampled.split("NDCG")[0].split()) == len(cold.split("NDCG")[0].split()) - 1
    with pytest.raises(t4r.UserError, match="select_by=full/ndcg@10 needs the full catalogue"):
        t4r.train(data, "popularity", select_by="full/ndcg@10", **options)


def test_seen_items_are_filtered_and_kept(data, run, tmp_path):
    lines = []
    options = {"progress": False, "log": lines.append, "filter_seen": False}
    kept = t4r.train(data, "popularity", run_dir=tmp_path / "run", **options)
    usual = t4r.train(data, "popularity", progress=False)
    assert {name: kept.test[name] for name in usual.test} == usual.test
    assert kept.test["unfiltered"]["ndcg@10"] < kept.test["full"]["ndcg@10"]
    table = "\n".join(lines)
    assert "unfiltered all 300 items" in table and "seen items kept" in table
    # protocols that both runs have
    table = t4r.compare(kept, run)
    assert "seen items kept" not in str(table) and "full" in str(table)
    with pytest.raises(t4r.UserError, match=r"unfiltered: .* has sampled, full only"):
        t4r.compare(kept, run, protocol="unfiltered")
    by_kept = t4r.train(data, "popularity", select_by="unfiltered/hit@5", **options)
    assert by_kept.test == kept.test
    for wrong in (
        {"select_by": "unfiltered/hit@5"},
        {"filter_seen": False, "full_catalogue": False},
    ):
        with pytest.raises(t4r.UserError, match="filter_seen=no"):
            t4r.train(data, "popularity", progress=False, **wrong)


def test_runs_are_compared_or_the_reason_is_given(data, run, tmp_path):
    other = t4r.train(data, "popularity", progress=False)
    comparison = t4r.compare(run, other, protocol="full")
    assert comparison.to_dict()["reference"] == "sasrec"
    assert "popularity - sasrec, over users alone" in str(comparison)
    assert "NDCG@10" in comparison._repr_html_()
    fewer = t4r.prepare("synthetic", eval_negatives=9)
    elsewhere = t4r.train(fewer, "popularity", progress=False)
    with pytest.raises(t4r.UserError, match="--eval_negatives=99 against 9"):
        t4r.compare([run], [elsewhere])
    with pytest.raises(t4r.UserError, match="compare: 3 is not a Run"):
        t4r.compare(run, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epohs": 2}, "epohs: there is no such option (did you mean 'epochs'?)"),
        ({"user_core": 2}, "user_core: an option of the data; give it to prepare"),
        ({"seed": [1, 2]}, "seed: several values; train takes one value each"),
        ({"seed": []}, "seed: is empty"),
        ({"seed": [1, 1]}, "seed: [1, 1] has a duplicate"),
        ({"on_epoch": 3}, "on_epoch: 3 is not a function"),
        ({"inner": "mlp"}, "--inner: an option of --model=ttt4rec"),
        ({"model": "sasrek"}, "--model: 'sasrek' is not one of"),
        ({"dim": 8.5}, "--dim: 8.5 is a float, expected int"),
        ({"process_id": 1}, "process_id: there is no such option"),
        ({"resume": True}, "--resume: needs --run_dir"),
        ({"mesh": "dta:2"}, "--mesh: 'dta:2' is not an axis"),
    ],
)
def test_a_mistake_is_one_line(data, options, message):
    with pytest.raises(t4r.UserError) as raised:
        t4r.train(data, **{"model": "sasrec"} | options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_the_installed_command_lists_its_commands(capsys):
    assert command.main(["ttt4rec", "--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"  {name} " in output for name in command.COMMANDS)
    assert command.main(["ttt4rec", "trian"]) == 2
    assert "'trian' is not a command (did you mean 'train'?)" in capsys.readouterr().err
    assert command.main(["ttt4rec"]) == 2
    assert command.main(["ttt4rec", "--version"]) == 0
    with pytest.raises(SystemExit) as done:
        command.main(["ttt4rec", "compare", "--help"])
    assert done.value.code == 0
    assert "usage: ttt4rec compare RUN [RUN ...] [--flag=value ...]" in capsys.readouterr().out
