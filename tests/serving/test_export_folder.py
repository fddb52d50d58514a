"""The folder of an export, the command that writes it, and requests that are refused."""

import json
import shutil

import jax
import pytest
from helpers import (
    V,
    catalogue_of,
    load_script,
    run_commands,
    run_script,
    serving_config,
    split_model,
)

from data_prep.settings import UserError
from ttt4rec_jax import Recommender
from ttt4rec_jax.config import Config
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving import export, export_folder, load_export
from ttt4rec_jax.serving.load_export import ExportError

ITEMS = [100 * i for i in range(1, V + 1)]


def export_popularity(dataset, output, items=None, **options):
    """Export the model that is the quickest to export."""
    config = serving_config("popularity")
    graphdef, params = split_model(config, dataset)
    items = items or catalogue_of(dataset)
    export.export_model(config, graphdef, params, items, output, **options)


@pytest.fixture(scope="module")
def popularity_export(random_dataset, tmp_path_factory):
    """The folder of an export, to be copied."""
    folder = tmp_path_factory.mktemp("popularity") / "model"
    export_popularity(random_dataset, folder, k=5)
    return folder


def test_ids_are_as_in_the_data_and_titles_are_any_text(random_dataset, tmp_path):
    ids = [f"sku-{i}\u2028é" for i in range(V)]
    titles = [None, "two\nlines", *["Ünïcode"] * (V - 2)]
    items = Catalogue(ids, titles, catalogue_of(random_dataset).clicks)
    export_popularity(random_dataset, tmp_path / "model", items)
    model = load_export.load_export(tmp_path / "model")
    config = serving_config("popularity")
    recommender = Recommender(config, *split_model(config, random_dataset), items)
    assert (model.ids, model.titles, model.clicks.tolist()) == (ids, titles, items.clicks.tolist())
    (best,), (expected,) = (r.recommend([ids[:2]], k=5) for r in (model, recommender))
    assert (best.ids, best.titles) == (expected.ids, expected.titles)


REQUESTS = {
    "an unknown id": (
        lambda m: m.recommend([[100, "nowhere"]], k=3),
        "no item 'nowhere'; expected ids such as 100",
    ),
    "too many": (
        lambda m: m.recommend([[100]], k=6),
        "k: found 6, expected 1 to 5; export the run with a larger --k for more",
    ),
    "none": (lambda m: m.recommend([[100]], k=0), "k: found 0, expected 1 to 5"),
    "a session": (lambda m: m.open_session(), "popularity carries no state"),
}


def test_an_impossible_request_is_refused_with_the_reason(popularity_export):
    model = load_export.load_export(popularity_export)
    forms = [[100, 3000], ["100", "3000"], [100.0, "3000.0"]]  # as other programs write ids
    assert [model.to_items(ids).tolist() for ids in forms] == [[1, 30]] * 3
    for ask, expected in REQUESTS.values():
        with pytest.raises(ValueError) as error:
            ask(model)
        assert expected in str(error.value)


def test_the_manifest_says_where_the_model_comes_from(random_dataset, tmp_path):
    run = untrained(tmp_path / "run", random_dataset)
    dataset = {"name": "mine", "sha256": "ab" * 32}
    run.result.write_text(json.dumps({"dataset": dataset, "best_epoch": 3, "test": {}}))
    manifest = export.export_run(run.path, tmp_path / "model", k=7)
    assert manifest == json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert (manifest["dataset"], manifest["best_epoch"], manifest["k"]) == (dataset, 3, 7)
    assert (
        manifest["written_by"]["jax"] == jax.__version__
        and manifest["model"]["model"] == "popularity"
    )


def change(manifest, **fields):
    return json.dumps(manifest | fields)


DAMAGED = {
    "another version": (
        "manifest.json",
        lambda m: change(m, format_version=3),
        "format version 3, expected",
    ),
    "another format": (
        "manifest.json",
        lambda m: change(m, format="x"),
        "found x of format version 1, expected",
    ),
    "a format of two lines": (
        "manifest.json",
        lambda m: change(m, format="x\ny"),
        r"found x\ny of format version 1, expected",
    ),
    "no JSON": ("manifest.json", lambda m: json.dumps(m)[:50], "not the manifest of an export"),
    "another JSON": ("manifest.json", lambda m: "[1]", "not the manifest of an export"),
    "no manifest": ("manifest.json", None, "no manifest.json, so it holds no export"),
    "another platform": (
        "manifest.json",
        lambda m: change(m, platforms=["tpu"]),
        "exported for tpu, but jax runs on cpu",
    ),
    "another jax": (
        "manifest.json",
        lambda m: change(m, calling_convention_version=999),
        f"jax {jax.__version__} cannot read",
    ),
    "a changed file": ("arrays.npz", lambda m: "not arrays", "arrays.npz: damaged"),
    "a missing file": ("score.jax_export", None, "score.jax_export: missing"),
    "absurd sizes": ("manifest.json", lambda m: change(m, items=10**15), "items, k and max_len"),
    "other sizes": ("manifest.json", lambda m: change(m, items=31), "has 30 items, expected 31"),
    "no digests": ("manifest.json", lambda m: change(m, files={}), "files has no arrays.npz"),
    "a file elsewhere": (
        "manifest.json",
        lambda m: change(m, files=m["files"] | {"../mine": ""}),
        "a file outside the folder, '../mine'",
    ),
    "a program elsewhere": (
        "manifest.json",
        lambda m: change(m, programs={"top_k": {"file": "/etc/hostname"}}),
        "files has no /etc/hostname",
    ),
    "nested JSON": ("manifest.json", lambda m: "[" * 100_000, "not the manifest of an export"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_an_export_that_cannot_be_served_is_refused_in_one_line(popularity_export, tmp_path, what):
    shutil.copytree(popularity_export, tmp_path / "model")
    name, content, expected = DAMAGED[what]
    if content:
        manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
        (tmp_path / "model" / name).write_text(content(manifest))
    else:
        (tmp_path / "model" / name).unlink()
    with pytest.raises(ExportError) as error:
        load_export.load_export(tmp_path / "model")
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "model"))


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_the_previous_one(
    random_dataset, popularity_export, tmp_path, monkeypatch, failure
):
    def fail(*_):
        raise failure

    shutil.copytree(popularity_export, tmp_path / "old")
    monkeypatch.setattr(export, "write_items", fail)
    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else UserError
    for output in ("new", "old"):
        with pytest.raises(expected):
            export_popularity(random_dataset, tmp_path / output, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert load_export.load_export(tmp_path / "old").manifest["k"] == 5


def test_an_export_replaces_nothing_but_an_export(random_dataset, popularity_export, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    shutil.copytree(popularity_export, tmp_path / "export")
    (tmp_path / "empty").mkdir()
    export_folder.check(tmp_path / "empty", overwrite=False)
    for name, overwrite, expected in (
        ("file", True, "is a file"),
        ("folder", True, "not empty and holds no export"),
        ("export", False, "already holds an export"),
    ):
        with pytest.raises(UserError, match=expected):
            export_folder.check(tmp_path / name, overwrite)
    # an export of another version is an export, too
    manifest = tmp_path / "export" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(change(content, format_version=0))
    (tmp_path / "export" / "stale").write_text("of the previous export")
    with pytest.raises(UserError, match="also holds stale, which no export wrote"):
        export_folder.check(tmp_path / "export", overwrite=True)
    files = content["files"] | {"stale": ""}
    manifest.write_text(change(content, format_version=0, files=files))
    for name in ("export", "empty"):
        export_popularity(random_dataset, tmp_path / name, overwrite=name == "export")
        assert load_export.load_export(tmp_path / name).ids == ITEMS
    assert not (tmp_path / "export" / "stale").exists()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["empty", "export", "file", "folder"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(random_dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--output: [^\n]*file/model cannot be written \([^\n]*$"):
        export_popularity(random_dataset, tmp_path / "file" / "model")


def untrained(path, dataset):
    """The folder of a run that needs no training."""
    folder = RunFolder(path)
    folder.create(Config(model=serving_config("popularity")))
    catalogue.save(folder, catalogue_of(dataset), dataset, False)
    return folder


def test_the_command_exports_a_run(random_dataset, tmp_path, monkeypatch, capsys):
    untrained(tmp_path / "run", random_dataset)
    monkeypatch.chdir(tmp_path)
    code = load_script("export").main(["export.py", "--run=run", "--output=model", "--k=5"])
    out, err = capsys.readouterr()
    assert code == 0 and err == ""
    assert out.startswith(
        "model: popularity, 30 items, top 5; encode, score, top_k for cpu, cuda, tpu; 0.1 MB\n"
    )
    best, expected = (
        model.recommend([[100, 300]], k=5)[0]
        for model in (
            load_export.load_export(tmp_path / "model"),
            Recommender.load(tmp_path / "run"),
        )
    )
    assert best.ids == expected.ids and best.scores.tolist() == expected.scores.tolist()


MISTAKES = {
    "": "--output",
    "--run=run": "--output",
    "--run=nowhere --output=model": "--run: nowhere holds no run",
    "--run=run --output=model --k=0": "--k: 0 is out of range, expected at least 1",
    "--run=run --output=run": "--output: run is not empty and holds no export",
    "--run=run --output=run --overwrite": "--output: run is not empty and holds no export",
    "--run=run --output=file": "--output: file is a file",
    "--run=run --output=model --overwritten": "--overwritten",
}


def test_mistakes_and_help_need_no_jax(environment, random_dataset, tmp_path):
    untrained(tmp_path / "run", random_dataset)
    (tmp_path / "file").write_text("")
    commands = [*(flags.split() for flags in MISTAKES), ["--help"]]
    (*mistakes, help), modules = run_commands("export", commands, environment, tmp_path)
    for (code, out, err), (flags, expected) in zip(mistakes, MISTAKES.items(), strict=True):
        assert code == 2 and out == "" and err.count("\n") == 1, flags
        assert err.startswith("error: ") and expected in err
    assert help[0] == 0
    for flag in ("--run", "--output", "--k", "--overwrite"):
        assert flag in help[1]
    assert not modules & {"jax", "flax", "polars"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_a_mistake_ends_the_process_with_code_2(environment, tmp_path):
    done = run_script("export", environment, "--run=nowhere", "--output=model", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --run: nowhere holds no run")
