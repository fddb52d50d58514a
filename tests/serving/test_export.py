"""Exports: Recommender's scores, in an environment without this package, or a clear refusal."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import (
    ROOT,
    SERVING_CASES,
    D,
    L,
    V,
    assert_same_lists,
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
from ttt4rec_jax.serving.load_export import ExportError, windows

CASES = [
    case for case in SERVING_CASES if case not in ("ttt4rec b10", "ttt4rec mlp", "ttt4rec mamba")
]
HISTORIES = [
    [100, 300],
    [],
    [500] * 3,
    [100 * i for i in range(1, 20)],
    [3000],
    [700, 100, 700, 200],
    [1200],
]
ITEMS = [100 * i for i in range(1, V + 1)]


def export_popularity(dataset, output, items=None, **options):
    """Export the model that is the quickest to export."""
    config = serving_config("popularity")
    graphdef, params = split_model(config, dataset)
    items = items or catalogue_of(dataset)
    export.export_model(config, graphdef, params, items, output, **options)


@pytest.fixture(scope="module")
def exports(random_dataset, recommender_of, tmp_path_factory):
    """Return a function from a case to (Recommender, its export, loaded), each made only once."""
    folder = tmp_path_factory.mktemp("exports")
    made = {}

    def make(case):
        if case not in made:
            recommender = recommender_of(case)
            graphdef, params = split_model(recommender.config, random_dataset)
            items = recommender.items
            export.export_model(recommender.config, graphdef, params, items, folder / case)
            made[case] = recommender, load_export.load_export(folder / case)
        return made[case]

    return make


@pytest.fixture(scope="module")
def popularity_export(random_dataset, tmp_path_factory):
    """The folder of an export, to be copied."""
    folder = tmp_path_factory.mktemp("popularity") / "model"
    export_popularity(random_dataset, folder, k=5)
    return folder


# Recommender's scores


@pytest.mark.parametrize("case", CASES)
def test_the_best_items_and_their_scores_are_recommenders_bit_for_bit(exports, case):
    recommender, model = exports(case)
    for found, expected in zip(
        model.recommend(HISTORIES, k=V), recommender.recommend(HISTORIES, k=V), strict=True
    ):
        assert (found.ids, found.titles, found.source) == (
            expected.ids,
            expected.titles,
            expected.source,
        )
        # both pad 7 rows to 8, so their programs have the same shapes
        np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("case", ["ttt4rec b4", "comirec_sa", "din", "itemknn"])
def test_candidates_score_what_they_score_among_all_items(exports, case):
    recommender, model = exports(case)
    histories = [history for history in HISTORIES if history]
    candidates = np.random.default_rng(0).permuted([ITEMS] * len(histories), axis=1)[:, :7].tolist()
    scores_of = [
        dict(zip(best.ids, best.scores, strict=True))
        for best in recommender.recommend(histories, k=V, exclude_seen=False)
    ]
    expected = [[score[id] for id in ids] for score, ids in zip(scores_of, candidates, strict=True)]
    # up to rounding: as in the evaluation, the scores of candidates are sums of products, those of
    # the catalogue a matrix product
    np.testing.assert_allclose(model.score(histories, candidates), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["ttt4rec b4", "comirec_sa"])
def test_the_best_interests_product_with_an_item_vector_is_its_score(exports, case):
    _, model = exports(case)
    item_VxD = np.asarray(model.arrays["item_vectors"]).reshape(-1, D)[:V]
    user_BxKxD = model.encode([[100, 300], [700]])
    assert user_BxKxD.shape[1] == (4 if case == "comirec_sa" else 1)
    expected = model.score([[100, 300], [700]], [ITEMS] * 2)
    np.testing.assert_allclose((user_BxKxD @ item_VxD.T).max(1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["ttt4rec b4", "din"])
def test_programs_take_any_batch_and_any_number_of_candidates(exports, case):
    _, model = exports(case)
    history = windows([model.to_items(history) for history in HISTORIES], L)
    blocked_BxW = np.zeros((7, model.width), np.uint8)
    candidates_BxC = np.tile(np.arange(1, 8, dtype=np.int32), (7, 1))
    best_Bxk, items_Bxk = model.call("top_k", *history, blocked_BxW)  # at a batch of 8
    for rows in (1, 7):
        best, items = model.programs["top_k"](
            model.arrays, *(x[:rows] for x in (*history, blocked_BxW))
        )
        np.testing.assert_allclose(best, best_Bxk[:rows], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(items, items_Bxk[:rows])
    (scores_BxC,) = model.call("score", *history, candidates_BxC)
    (scores,) = model.programs["score"](
        model.arrays, *(x[:3] for x in history), candidates_BxC[:3, :2]
    )
    np.testing.assert_allclose(scores, scores_BxC[:3, :2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["sasrec", "itemknn"])
def test_item_zero_is_padding(exports, case):
    _, model = exports(case)
    window = windows([np.array([1, 2])], L)
    (scores,) = model.programs["score"](
        model.arrays, *window, np.array([[1, 0, V + 1, -1, V]], np.int32)
    )
    np.testing.assert_array_equal(np.isneginf(scores), [[False, True, True, True, False]])
    only = np.packbits(np.arange(1, V + 1) != 5, bitorder="little")[None]
    scores, items = model.programs["top_k"](model.arrays, *window, only)
    assert (
        items[0].tolist() == [5] + [0] * (V - 1)
        and np.isneginf(scores[0, 1:]).all()
        and np.isfinite(scores[0, 0])
    )


def test_filters(exports):
    recommender, model = exports("sasrec")
    for options in ({"exclude": ["300", 400]}, {"exclude": [100], "exclude_seen": False}):
        (found, empty), (expected, popular) = (
            r.recommend([[100, 500], []], k=V, **options) for r in (model, recommender)
        )
        assert (found.ids, empty.ids, empty.source) == (expected.ids, popular.ids, "popularity")
        np.testing.assert_array_equal(empty.scores, popular.scores)
    assert model.recommend([]) == []


@pytest.mark.parametrize("case", ["ttt4rec b1", "ttt4rec b4"])
def test_a_session_click_by_click_is_the_whole_history(exports, case):
    recommender, model = exports(case)
    # the last mini-batch is not full
    clicks = (100 * np.random.default_rng(5).integers(1, V + 1, 2 * L + 1)).tolist()
    session = model.open_session()
    twin = recommender.open_session()
    assert session.recommend(k=3).source == "popularity"
    for click in clicks:
        session.observe(click)
        twin.observe(click)
        np.testing.assert_array_equal(session.state, twin.state)
    found = session.recommend(k=V, exclude=[200])
    expected = twin.recommend(k=V, exclude=[200])
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert_same_lists(
        session.recommend(k=V), recommender.recommend([clicks], k=V, whole_history=True)[0]
    )
    (unchanged,) = model.call("session_step", session.state[None], np.zeros(1, np.int32))
    np.testing.assert_array_equal(unchanged[0], session.state)


def test_ids_are_as_in_the_data_and_titles_are_any_text(random_dataset, tmp_path):
    ids = [f"sku-{i}\u2028é" for i in range(V)]
    titles = [None, "two\nlines", *["Ünïcode"] * (V - 2)]
    items = Catalogue(ids, titles, catalogue_of(random_dataset).clicks)
    export_popularity(random_dataset, tmp_path / "model", items)
    model = load_export.load_export(tmp_path / "model")
    config = serving_config("popularity")
    recommender = Recommender(config, *split_model(config, random_dataset), items)
    assert (model.ids, model.titles, model.clicks.tolist()) == (ids, titles, items.clicks.tolist())
    (found,), (expected,) = (r.recommend([ids[:2]], k=5) for r in (model, recommender))
    assert (found.ids, found.titles) == (expected.ids, expected.titles)


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
    for ask, expected in REQUESTS.values():
        with pytest.raises(ValueError) as error:
            ask(model)
        assert expected in str(error.value)


# The folder


@pytest.mark.parametrize("case", ["ttt4rec b4", "sasrec", "itemknn"])
def test_programs_are_for_every_platform_and_hold_neither_parameters_nor_paths(exports, case):
    _, model = exports(case)
    arrays = [np.asarray(x) for name, x in model.arrays.items() if len(np.unique(x)) > 8]
    assert len(arrays) >= 2
    for name, about in model.manifest["programs"].items():
        blob = (model.folder / about["file"]).read_bytes()
        exported = jax.export.deserialize(bytearray(blob))
        assert exported.platforms == ("cpu", "cuda", "tpu") == tuple(model.manifest["platforms"])
        assert "callback" not in exported.mlir_module()
        assert str(ROOT).encode() not in blob and b".py" not in blob
        assert not [x for x in arrays if x.reshape(-1)[:16].tobytes() in blob], (
            f"{name} holds an array as a constant"
        )
        asked = [(x["dtype"], x["shape"][1:]) for x in about["arguments"]]
        taken = exported.in_avals[-len(asked) :]
        assert [
            (str(x.dtype), [d if isinstance(d, int) else "C" for d in x.shape[1:]]) for x in taken
        ] == asked


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
        lambda m: change(m, format_version=2),
        "format version 2, expected",
    ),
    "another format": (
        "manifest.json",
        lambda m: change(m, format="x"),
        "found x of format version 1, expected",
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
    manifest.write_text(change(json.loads(manifest.read_text()), format_version=0))
    (tmp_path / "export" / "stale").write_text("of the previous export")
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


# The command line, and an environment that knows nothing of this package


def untrained(path, dataset):
    """The folder of a run that needs no training."""
    folder = RunFolder(path)
    folder.create(Config(model=serving_config("popularity")))
    catalogue.leave(folder, catalogue_of(dataset), dataset, False)
    return folder


BARE = """
import json, sys
sys.path += sys.argv[1:3]  # what jax needs, and the export
for name in ("ttt4rec_jax", "data_prep", "flax", "optax", "orbax", "polars", "absl"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported")

from load_export import load_export

histories = json.loads(sys.argv[3])
model = load_export(sys.argv[2])
session = model.open_session()
for click in histories[0]:
    session.observe(click)
results = [*model.recommend(histories, k=30), session.recommend(k=30)]
answers = [[best.ids, best.scores.tolist()] for best in results]

# and the same without load_export.py
import jax, numpy as np
from pathlib import Path

folder = Path(sys.argv[2])
manifest = json.loads((folder / "manifest.json").read_text())
ids = [json.loads(line)["id"] for line in open(folder / "items.jsonl")]
arrays = dict(np.load(folder / "arrays.npz"))
top_k = jax.jit(jax.export.deserialize(bytearray((folder / "top_k.jax_export").read_bytes())).call)

clicks = [ids.index(id) + 1 for id in histories[0]]
history = np.zeros((1, manifest["model"]["max_len"]), np.int32)
history[0, : len(clicks)] = clicks
blocked = np.packbits(np.isin(np.arange(1, len(ids) + 1), clicks), bitorder="little")[None]
scores, items = top_k(arrays, history, np.int32([len(clicks)]), blocked)
best = items[0][items[0] > 0]
answers.append([[ids[item - 1] for item in best.tolist()], scores[0, : len(best)].tolist()])
print(json.dumps(answers))
"""
NEEDED = ("jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy", "flatbuffers")


def test_an_export_gives_the_same_numbers_without_this_package(exports, tmp_path):
    recommender, model = exports("ttt4rec b4")
    for name in NEEDED:
        distribution = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}:
            (tmp_path / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    histories = [[100, 300, 700, 200, 500], [900, 100], [100 * i for i in range(1, 20)]]
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
    }
    # -I -S: nothing can be imported from the environment, installed packages or the working
    # directory
    flags = ["-I", "-S", "-c", BARE, str(tmp_path), str(model.folder), json.dumps(histories)]
    done = subprocess.run(
        [sys.executable, *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    *results, by_hand = json.loads(done.stdout)
    session = recommender.open_session()
    for click in histories[0]:
        session.observe(click)
    expected = [*recommender.recommend(histories, k=V), session.recommend(k=V)]
    assert results == [[best.ids, best.scores.tolist()] for best in expected]
    assert by_hand[0] == expected[0].ids
    # up to rounding: a batch of 1 instead of 4
    np.testing.assert_allclose(by_hand[1], expected[0].scores, rtol=1e-5, atol=1e-6)


def test_the_command_exports_a_run(random_dataset, tmp_path, monkeypatch, capsys):
    untrained(tmp_path / "run", random_dataset)
    monkeypatch.chdir(tmp_path)
    code = load_script("export").main(["export.py", "--run=run", "--output=model", "--k=5"])
    out, err = capsys.readouterr()
    assert code == 0 and err == ""
    assert out.startswith(
        "model: popularity, 30 items, top 5; encode, score, top_k for cpu, cuda, tpu; 0.0 MB\n"
    )
    found, expected = (
        model.recommend([[100, 300]], k=5)[0]
        for model in (
            load_export.load_export(tmp_path / "model"),
            Recommender.load(tmp_path / "run"),
        )
    )
    assert found.ids == expected.ids and found.scores.tolist() == expected.scores.tolist()


MISTAKES = {
    "": "--output",
    "--run=run": "--output",
    "--run=nowhere --output=model": "--run: nowhere holds no run",
    "--run=run --output=model --k=0": "--k: found 0, expected at least 1",
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
