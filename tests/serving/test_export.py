"""Exports: Recommender's scores, in an environment without this package, or a clear refusal."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import (
    QUICK_TO_COMPILE,
    ROOT,
    SERVING_CASES,
    D,
    L,
    V,
    assert_same_lists,
    split_model,
)

from ttt4rec_jax.serving import export, load_export
from ttt4rec_jax.serving.load_export import windows

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


# Recommender's scores


@pytest.mark.parametrize("case", CASES)
def test_the_best_items_and_their_scores_are_recommenders_bit_for_bit(exports, case):
    recommender, model = exports(case)
    for best, expected in zip(
        model.recommend(HISTORIES, k=V), recommender.recommend(HISTORIES, k=V), strict=True
    ):
        assert (best.ids, best.titles, best.source) == (
            expected.ids,
            expected.titles,
            expected.source,
        )
        # both pad 7 rows to 8, so their programs have the same shapes
        np.testing.assert_array_equal(best.scores, expected.scores)


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
    atol = 1e-4 if case == "din" else 1e-6  # DIN's softmax magnifies what rounds
    np.testing.assert_allclose(model.score(histories, candidates), expected, rtol=1e-5, atol=atol)


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
        (best, empty), (expected, popular) = (
            r.recommend([[100, 500], []], k=V, **options) for r in (model, recommender)
        )
        assert (best.ids, empty.ids, empty.source) == (expected.ids, popular.ids, "popularity")
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
    best = session.recommend(k=V, exclude=[200])
    expected = twin.recommend(k=V, exclude=[200])
    assert best.ids == expected.ids
    np.testing.assert_array_equal(best.scores, expected.scores)
    assert_same_lists(
        session.recommend(k=V), recommender.recommend([clicks], k=V, whole_history=True)[0]
    )
    (unchanged,) = model.call("session_step", session.state[None], np.zeros(1, np.int32))
    np.testing.assert_array_equal(unchanged[0], session.state)


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
        described = [(x["dtype"], x["shape"][1:]) for x in about["arguments"]]
        taken = exported.in_avals[-len(described) :]
        assert [
            (str(x.dtype), [d if isinstance(d, int) else "C" for d in x.shape[1:]]) for x in taken
        ] == described


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
        **QUICK_TO_COMPILE,  # as in this process, for scores of equal bits
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
