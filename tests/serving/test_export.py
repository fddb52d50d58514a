"""Exports: Recommender's own numbers from programs of any batch, in an environment without this package, or a clear refusal."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import STREAMS, D, L, V, assert_same_lists, catalogue_of, serving_config, split_model

from data_prep.settings import UserError
from ttt4rec_jax import Recommender
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving import export, export_folder
from ttt4rec_jax.serving.load_export import ExportError, load_export

ROOT = Path(__file__).parents[2]
CASES = {name: {} for name in MODELS if name != "ttt4rec"} | {
    f"ttt4rec {b}": STREAMS[b] for b in ("b1", "b4")
}
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


def export_of(
    name: str, dataset, output: Path, items: Catalogue | None = None, **options
) -> Recommender:
    """Exports a model as test_recommend makes it: the Recommender of the same."""
    config = serving_config(name.split()[0], **CASES[name])
    graphdef, params = split_model(config, dataset)
    items = items or catalogue_of(dataset)
    export.export_model(config, graphdef, params, items, output, **options)
    return Recommender(config, graphdef, params, items)


@pytest.fixture(scope="module")
def exports(random_dataset, tmp_path_factory):
    """Case -> (Recommender of a model, its export, loaded), each made once."""
    folder = tmp_path_factory.mktemp("exports")
    made = {}

    def one(case: str):
        if case not in made:
            recommender = export_of(case, random_dataset, folder / case)
            made[case] = recommender, load_export(folder / case)
        return made[case]

    return one


# Recommender's numbers


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
        np.testing.assert_array_equal(
            found.scores, expected.scores
        )  # both pad 7 rows to 8: programs of one shape


@pytest.mark.parametrize("case", ["ttt4rec b4", "comirec_sa", "din", "itemknn"])
def test_candidates_score_what_they_score_among_all_items(exports, case):
    recommender, model = exports(case)
    histories = [history for history in HISTORIES if history]
    candidates = np.random.default_rng(0).permuted([ITEMS] * len(histories), axis=1)[:, :7].tolist()
    every = recommender.recommend(histories, k=V, exclude_seen=False)
    scores_of = [dict(zip(one.ids, one.scores, strict=True)) for one in every]
    expected = [[score[id] for id in ids] for score, ids in zip(scores_of, candidates, strict=True)]
    # to rounding: as in evaluation, sampled candidates are summed and the catalogue is a matrix
    # product
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
    windows = model.windows([model.find(history) for history in HISTORIES])
    blocked_BxW = np.zeros((7, model.width), np.uint8)
    candidates_BxC = np.tile(np.arange(1, 8, dtype=np.int32), (7, 1))
    best_Bxk, items_Bxk = model.call("top_k", *windows, blocked_BxW)  # at a batch of 8
    for rows in (1, 7):
        best, items = model.programs["top_k"](
            model.arrays, *(x[:rows] for x in (*windows, blocked_BxW))
        )
        np.testing.assert_allclose(best, best_Bxk[:rows], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(items, items_Bxk[:rows])
    (scores_BxC,) = model.call("score", *windows, candidates_BxC)
    (scores,) = model.programs["score"](
        model.arrays, *(x[:3] for x in windows), candidates_BxC[:3, :2]
    )
    np.testing.assert_allclose(scores, scores_BxC[:3, :2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["sasrec", "itemknn"])
def test_zero_stands_for_no_item(exports, case):
    _, model = exports(case)
    window = model.windows([np.array([1, 2])])
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
    clicks = (
        100 * np.random.default_rng(5).integers(1, V + 1, 2 * L + 1)
    ).tolist()  # and a mini-batch that is not full
    session = model.open_session()
    twin = recommender.open_session()
    assert session.recommend(k=3).source == "popularity"
    for click in clicks:
        session.observe(click)
        twin.observe(click)
        np.testing.assert_array_equal(session.memory, twin.memory)
    found = session.recommend(k=V, exclude=[200])
    expected = twin.recommend(k=V, exclude=[200])
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert_same_lists(
        session.recommend(k=V), recommender.recommend([clicks], k=V, whole_history=True)[0]
    )
    (still,) = model.call("session_step", session.memory[None], np.zeros(1, np.int32))
    np.testing.assert_array_equal(still[0], session.memory)


def test_ids_are_as_in_the_data_and_titles_are_any_text(random_dataset, tmp_path):
    ids = [f"sku-{i}\u2028é" for i in range(V)]
    titles = [None, "two\nlines", *["Ünïcode"] * (V - 2)]
    items = Catalogue(ids, titles, catalogue_of(random_dataset).clicks)
    recommender = export_of("popularity", random_dataset, tmp_path / "model", items)
    model = load_export(tmp_path / "model")
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
        "k: found 6, expected 1 to 5; export the run with another --k for more",
    ),
    "none": (lambda m: m.recommend([[100]], k=0), "k: found 0, expected 1 to 5"),
    "a session": (lambda m: m.open_session(), "popularity carries no state"),
}


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_that_cannot_be_met_is_told(random_dataset, tmp_path, request_):
    export_of("popularity", random_dataset, tmp_path / "model", k=5)
    ask, expected = REQUESTS[request_]
    with pytest.raises(ValueError) as error:
        ask(load_export(tmp_path / "model"))
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


def test_what_has_been_told_of_the_run_is_in_the_manifest(random_dataset, tmp_path):
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


def change(manifest: dict, **fields) -> str:
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
        "exported for tpu, and jax runs on cpu",
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
def test_an_export_that_cannot_be_served_is_refused_in_one_line(random_dataset, tmp_path, what):
    export_of("popularity", random_dataset, tmp_path / "model")
    name, content, expected = DAMAGED[what]
    if content:
        manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
        (tmp_path / "model" / name).write_text(content(manifest))
    else:
        (tmp_path / "model" / name).unlink()
    with pytest.raises(ExportError) as error:
        load_export(tmp_path / "model")
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "model"))


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_is_whole_or_not_there_and_leaves_the_one_before(
    random_dataset, tmp_path, monkeypatch, failure
):
    def fail(*_):
        raise failure

    export_of("popularity", random_dataset, tmp_path / "old", k=3)
    monkeypatch.setattr(export, "write_items", fail)
    for output in ("new", "old"):
        with pytest.raises(
            KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else UserError
        ):
            export_of("popularity", random_dataset, tmp_path / output, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert load_export(tmp_path / "old").manifest["k"] == 3


def test_an_export_takes_the_place_of_nothing_but_an_export(random_dataset, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    export_of("popularity", random_dataset, tmp_path / "empty")
    for name, overwrite, expected in (
        ("file", True, "is a file"),
        ("folder", True, "not empty and holds no export"),
        ("empty", False, "holds an export already"),
    ):
        with pytest.raises(UserError, match=expected):
            export_folder.check(tmp_path / name, overwrite)
    # an export of another version is an export all the same
    manifest = tmp_path / "empty" / "manifest.json"
    manifest.write_text(change(json.loads(manifest.read_text()), format_version=0))
    (tmp_path / "empty" / "stale").write_text("of the export before")
    export_of("popularity", random_dataset, tmp_path / "empty", overwrite=True)
    assert (
        load_export(tmp_path / "empty").ids == ITEMS and not (tmp_path / "empty" / "stale").exists()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "folder"]


def test_a_place_that_cannot_be_written_is_told_in_one_line(random_dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--output: [^\n]*file/model cannot be written \([^\n]*$"):
        export_of("popularity", random_dataset, tmp_path / "file" / "model")


# The command line, and an environment that knows nothing of this package


def untrained(path: Path, dataset) -> RunFolder:
    """The folder of a run that needs no training."""
    folder = RunFolder(path)
    folder.create(Config(model=serving_config("popularity")))
    catalogue.save(folder, catalogue_of(dataset), dataset, False)
    return folder


def command(environment, *flags, cwd):
    program = [sys.executable, str(ROOT / "experiments" / "export.py"), *flags]
    return subprocess.run(
        program, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600
    )


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
found = [*model.recommend(histories, k=30), session.recommend(k=30)]
answers = [[one.ids, one.scores.tolist()] for one in found]

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
        for top in {path.parts[0] for path in distribution.files} - {"..", "__pycache__"}:
            (tmp_path / top).symlink_to(distribution.locate_file(top).resolve())
    histories = [[100, 300, 700, 200, 500], [900, 100], [100 * i for i in range(1, 20)]]
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    # -I -S: neither the environment nor installed packages nor the working directory add to what
    # can be imported
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
    *found, by_hand = json.loads(done.stdout)
    session = recommender.open_session()
    for click in histories[0]:
        session.observe(click)
    expected = [*recommender.recommend(histories, k=V), session.recommend(k=V)]
    assert found == [[one.ids, one.scores.tolist()] for one in expected]
    assert by_hand[0] == expected[0].ids
    np.testing.assert_allclose(
        by_hand[1], expected[0].scores, rtol=1e-5, atol=1e-6
    )  # a batch of 1 instead of 4


def test_the_command_exports_a_run(environment, random_dataset, tmp_path):
    untrained(tmp_path / "run", random_dataset)
    done = command(environment, "--run=run", "--output=model", "--k=5", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith(
        "model: popularity, 30 items, top 5; encode, score, top_k for cpu, cuda, tpu; 0.0 MB\n"
    )
    found, expected = (
        r.recommend([[100, 300]], k=5)[0]
        for r in (load_export(tmp_path / "model"), Recommender.load(tmp_path / "run"))
    )
    assert found.ids == expected.ids and found.scores.tolist() == expected.scores.tolist()


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


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_clear_line_without_importing_jax(
    environment, random_dataset, tmp_path, flags
):
    untrained(tmp_path / "run", random_dataset)
    (tmp_path / "file").write_text("")
    done = command(environment | {"PYTHONPROFILEIMPORTTIME": "1"}, *flags.split(), cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and done.stdout == "" and len(lines) == 1
    assert lines[0].startswith("error: ") and MISTAKES[flags] in lines[0]
    assert not {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()} & {
        "jax",
        "flax",
        "polars",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_help_without_importing_jax(environment, tmp_path):
    done = command(environment | {"PYTHONPROFILEIMPORTTIME": "1"}, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for flag in ("--run", "--output", "--k", "--overwrite"):
        assert flag in done.stdout
    assert not {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()} & {
        "jax",
        "flax",
        "polars",
    }
