"""Recommender: what evaluation scores, filters, sessions in all their ways, their bytes, and compilations that are few."""

import threading

import jax
import numpy as np
import pytest
from conftest import make_dataset
from helpers import (
    STREAMS,
    L,
    V,
    assert_same_lists,
    catalogue_of,
    make_recommender,
    serving_config,
    split_model,
)

import ttt4rec_jax
from data_prep.settings import UserError
from ttt4rec_jax import metrics
from ttt4rec_jax.config import MODELS
from ttt4rec_jax.data import batches
from ttt4rec_jax.evaluation import evaluator, ranking
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.serving import recommender as recommend
from ttt4rec_jax.serving import top_k
from ttt4rec_jax.serving.recommender import Recommender


@pytest.fixture(scope="module")
def long_history() -> list[int]:
    return (100 * np.random.default_rng(5).integers(1, V + 1, 77)).tolist()


@pytest.fixture(scope="module")
def sasrec(random_dataset) -> Recommender:
    return make_recommender(
        serving_config("sasrec"), random_dataset, [f"title {i}" for i in range(1, V + 1)]
    )


@pytest.fixture(scope="module")
def ttt4rec(random_dataset) -> Recommender:
    return make_recommender(serving_config("ttt4rec", **STREAMS["b4"]), random_dataset)


# What evaluation scores


@pytest.mark.parametrize(
    "name, lengths", [*((name, (L,)) for name in MODELS), ("ttt4rec", (2, 5, L))]
)
def test_the_test_histories_give_evaluations_own_figures(
    random_dataset, name, lengths, monkeypatch
):
    for module in (evaluator, recommend):
        monkeypatch.setattr(module, "lengths_read", lambda max_len: lengths)
    config = serving_config(name)
    graphdef, params = split_model(config, random_dataset)
    ranks = evaluator.Evaluator(
        graphdef, params, random_dataset, batches.device_clicks(random_dataset), L
    )(params, "test")["full"]
    recommender = Recommender(config, graphdef, params, catalogue_of(random_dataset))
    targets = random_dataset.test
    found = []
    histories = [
        random_dataset.items[random_dataset.offsets[user] : position]
        for position, user in zip(targets.positions, targets.users, strict=True)
    ]
    ids = [(100 * history).tolist() for history in histories]
    for history, target, best, everything in zip(
        histories,
        random_dataset.items[targets.positions],
        recommender.recommend(ids, k=V),
        recommender.recommend(ids, k=V, exclude_seen=False),
        strict=True,
    ):
        assert set(best.ids) == {100 * i for i in range(1, V + 1)} - {
            100 * i for i in history.tolist()
        }
        score_of = dict(zip(everything.ids, everything.scores, strict=True))
        target_score = score_of[
            100 * target
        ]  # a target that was clicked before stays a candidate of evaluation
        others = np.array(
            [score for id, score in zip(best.ids, best.scores, strict=True) if id != 100 * target]
        )
        found.append(((others > target_score).sum(), (others == target_score).sum(), len(others)))
    assert metrics.summarise(metrics.Ranks(*np.array(found).T)) == metrics.summarise(ranks)


@pytest.mark.parametrize("k", [1, 3, 40, 150])
def test_the_best_equal_a_stable_sort_of_all_ties_included(k):
    scores = np.random.default_rng(0).integers(0, 40, (3, 5, 512)).astype(np.float32)
    scores[1, 2] = -np.inf
    found, items = jax.jit(top_k.best, static_argnames="k")(scores, k)
    flat = scores.swapaxes(0, 1).reshape(5, -1)
    expected = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(items - 1, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(flat, expected, 1))


@pytest.mark.parametrize("num_items", [1, 30, 511, 512, 1025])
def test_what_is_blocked_and_what_is_beyond_the_catalogue_has_a_bit(num_items):
    blocked = np.random.default_rng(0).random((3, num_items)) < 0.5
    items = [np.flatnonzero(row) + 1 for row in blocked]
    marked = np.repeat(top_k.in_tiles(np.zeros(num_items, bool))[None], 3, 0)
    top_k.mark(
        marked, [np.concatenate([row, row[:1]]) for row in items]
    )  # an item that is marked twice
    for bits in (marked, np.stack([top_k.in_tiles(row) for row in blocked])):
        found = np.asarray(top_k.unpack(bits))
        np.testing.assert_array_equal(found[:, :num_items], blocked)
        assert found[:, num_items:].all() and found.shape[1] % ranking.TILE == 0


@pytest.mark.parametrize("name", ["sasrec", "din"])
def test_batches_give_what_single_histories_give(random_dataset, name, monkeypatch):
    # Given several tiles of the catalogue, several batches, and a last one that is not full
    monkeypatch.setattr(ranking, "TILE", 16)
    monkeypatch.setattr("ttt4rec_jax.serving.recommender.SCORES_AT_ONCE", 16 * 2 * 4)
    recommender = make_recommender(serving_config(name), random_dataset)
    histories = [(100 * np.arange(1 + i % 9, 3 + i % 9 + i % 5)).tolist() for i in range(11)]
    for many, history in zip(recommender.recommend(histories, k=12), histories, strict=True):
        assert_same_lists(many, recommender.recommend([history], k=12)[0])
    assert recommender.recommend([]) == []


# Ids, filters, empty histories


def test_ids_may_be_text_and_come_back_as_in_the_data(sasrec):
    (of_numbers,) = sasrec.recommend([[100, 500]], k=3)
    (of_texts,) = sasrec.recommend([("100", np.int64(500))], k=np.int64(3))
    assert of_numbers.ids == of_texts.ids and all(type(id) is int for id in of_texts.ids)
    assert of_texts.titles == [f"title {id // 100}" for id in of_texts.ids]


def test_filters(sasrec):
    history = [100, 500, 100]
    everything = sasrec.recommend([history], k=V, exclude_seen=False)[0]
    assert sorted(everything.ids) == [100 * i for i in range(1, V + 1)]
    assert (np.diff(everything.scores) <= 0).all()

    def expected(keep):
        return [id for id in everything.ids if keep(id)]

    assert sasrec.recommend([history], k=V)[0].ids == expected(lambda id: id not in history)
    assert (
        sasrec.recommend([history], k=5, exclude=["300", 700])[0].ids
        == expected(lambda id: id not in (100, 500, 300, 700))[:5]
    )
    found = sasrec.recommend(
        [history], k=5, include_only=[100, 200, 900], exclude=[900], exclude_seen=False
    )[0]
    assert found.ids == expected(lambda id: id in (100, 200))
    assert sasrec.recommend([history], k=10**6, include_only=[100])[0].ids == []


def test_an_empty_history_gets_what_is_popular_and_says_so(sasrec, random_dataset):
    empty, other = sasrec.recommend([[], [100]], k=V, exclude=[200])
    assert (empty.source, other.source) == ("popularity", "model")
    counts = dict(zip(sasrec.items.ids, sasrec.items.clicks, strict=True))
    assert (
        empty.scores.tolist()
        == [counts[id] for id in empty.ids]
        == sorted(empty.scores, reverse=True)
    )
    assert len(empty.ids) == V - 1 and 200 not in empty.ids
    assert sasrec.open_session().recommend(k=V, exclude=[200]).ids == empty.ids
    assert sasrec.recommend([[9]], k=3, unknown="skip")[0].source == "popularity"


MISTAKES = {
    "unknown items": (
        lambda r: r.recommend([[100, 1], ["x"]]),
        "2 items that the run's data does not have: 1, x",
    ),
    "unknown excluded": (lambda r: r.recommend([[100]], exclude=[5]), "exclude: 1 items"),
    "unknown click": (lambda r: r.open_session().observe("nothing"), "clicks: 1 items"),
    "no policy": (lambda r: r.recommend([[100]], unknown="skp"), "did you mean 'skip'"),
    "k of zero": (lambda r: r.recommend([[100]], k=0), "k: found 0"),
    "k of text": (lambda r: r.recommend([[100]], k="10"), "k: found '10'"),
    "one history": (
        lambda r: r.recommend(["100", "200"]),
        "expected a list of ids in its place, as ['100']",
    ),
    "text": (lambda r: r.recommend("100"), "found the text '100'"),
    "a list as an id": (lambda r: r.recommend([[[100]]]), "an id is a number or a text"),
    "sizes": (lambda r: r.observe_many([r.open_session()], [100, 200]), "found 2 for 1 sessions"),
    "no state": (
        lambda r: r.recommend([[100]], whole_history=True),
        "sasrec carries no state and reads the last 6 clicks",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(sasrec, mistake):
    do, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        do(sasrec)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_sessions_that_do_not_go_together_are_refused_and_nothing_changes(ttt4rec, sasrec):
    session = ttt4rec.open_session([100])
    with pytest.raises(UserError, match="stands there twice"):
        ttt4rec.observe_many([session, session], [200, 300])
    with pytest.raises(UserError, match="does not have: 7"):
        ttt4rec.observe_many([session, ttt4rec.open_session()], [200, 7])
    with pytest.raises(UserError, match="another Recommender"):
        sasrec.recommend_many([session])
    assert session.clicks == 1
    assert_same_lists(session.recommend(V), ttt4rec.recommend([[100]], V)[0])


# Sessions


@pytest.mark.parametrize("name", STREAMS)
def test_a_session_equals_the_whole_history_given_at_once(random_dataset, name, long_history):
    recommender = make_recommender(serving_config("ttt4rec", **STREAMS[name]), random_dataset)
    session = recommender.open_session()
    assert session.is_constant_cost and recommender.is_constant_cost
    for n, click in enumerate(long_history[:23], 1):
        session.observe(str(click))
        if n in (1, 3, 4, 5, 10, 12, 23):  # whole mini-batches and partial ones
            (whole,) = recommender.recommend(
                [long_history[:n]], V, whole_history=True, exclude_seen=False
            )
            assert_same_lists(session.recommend(V, exclude_seen=False), whole)
        if n == L:  # no longer than what evaluation reads: the same again
            assert_same_lists(session.recommend(V), recommender.recommend([long_history[:n]], V)[0])
    assert session.clicks == 23
    assert set(session.recommend(V).ids) == {100 * i for i in range(1, V + 1)} - set(
        long_history[:23]
    )
    # opened with a history, in more than one piece: the same as click by click
    (whole,) = recommender.recommend([long_history], V, whole_history=True, exclude_seen=False)
    assert_same_lists(
        recommender.open_session(long_history).recommend(V, exclude_seen=False), whole
    )


def test_a_state_remembers_what_a_window_forgets(ttt4rec, long_history):
    one, other = [long_history[:n] for n in (20, 20)]
    other = [3000 if one[0] != 3000 else 2900, *one[1:]]
    scores = [ttt4rec.open_session(h).recommend(V, exclude_seen=False).scores for h in (one, other)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-5
    windows = [ttt4rec.recommend([h], V, exclude_seen=False)[0].scores for h in (one, other)]
    np.testing.assert_array_equal(*windows)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name != "ttt4rec"] + ["ttt4rec with positions"]
)
def test_a_session_without_a_state_reads_the_last_clicks_anew(random_dataset, name, long_history):
    config = (
        serving_config("ttt4rec", positions="learned")
        if "positions" in name
        else serving_config(name)
    )
    recommender = make_recommender(config, random_dataset)
    session = recommender.open_session(long_history[:2])
    assert not session.is_constant_cost
    for n in range(3, 10):
        session.observe(long_history[n - 1])
    assert_same_lists(
        session.recommend(V), recommender.recommend([long_history[:9]], V)[0], rtol=1e-5
    )
    assert session.clicks == 9 and len(session.memory) == L


@pytest.mark.parametrize("kind", ["ttt4rec", "sasrec", "itemknn"])
def test_many_sessions_at_once_equal_each_alone(random_dataset, kind, long_history):
    recommender = make_recommender(serving_config(kind), random_dataset)
    clicks = [long_history[:3], [], long_history[3:4], long_history[4:15], long_history[:70]]
    alone = [recommender.open_session(c) for c in clicks]
    together = [recommender.open_session() for _ in clicks]
    best = recommender.observe_many(together, clicks, k=V, exclude=[100])
    for one, other, found in zip(alone, together, best, strict=True):
        assert_same_lists(found, one.recommend(V, exclude=[100]))
        np.testing.assert_allclose(other.memory, one.memory, rtol=2e-4, atol=2e-4)
        assert other.clicks == one.clicks
    for found, again in zip(
        best, recommender.recommend_many(together, V, exclude=[100]), strict=True
    ):
        assert_same_lists(found, again, rtol=1e-5)
    assert recommender.observe_many(together[:2], [100, 200]) is None
    assert [s.clicks for s in together[:2]] == [4, 1]
    assert recommender.observe_many([], [], k=3) == [] == recommender.recommend_many([])


def test_requests_of_any_size_share_a_few_programs(random_dataset, long_history):
    recommender = make_recommender(serving_config("ttt4rec", **STREAMS["b1"]), random_dataset)
    stream = recommender._stream
    for size in (1, 2, 3, 4, 5, 7, 8):
        sessions = [recommender.open_session() for _ in range(size)]
        for k in (1, 5, 10, 16):
            recommender.observe_many(
                sessions, [long_history[size]] * size, k=k, exclude=[100 * size]
            )
        for count in (2, 5, 8):
            recommender.observe_many(sessions, [long_history[:count]] * size)
    assert stream.advance_and_top._cache_size() == 4  # sizes 1, 2, 4, 8
    assert stream.advance._cache_size() == 4  # and pieces of 8 clicks
    compiled = recommender._encode._cache_size(), recommender._top_of_users._cache_size()
    for size in (3, 4):
        for k in (2, 9):
            recommender.recommend(
                [[100] * n for n in range(1, size + 1)], k, include_only=[300 * k]
            )
    assert np.subtract(
        (recommender._encode._cache_size(), recommender._top_of_users._cache_size()), compiled
    ).tolist() == [
        1,
        1,
    ]


def test_threads_lose_no_click(ttt4rec):
    sessions = [ttt4rec.open_session() for _ in range(2)]
    ttt4rec.observe_many(sessions, [100, 100])

    def work(order):
        for _ in range(10):
            ttt4rec.observe_many([sessions[i] for i in order], [[200], [200]])
            sessions[order[0]].recommend(3)

    threads = [threading.Thread(target=work, args=(order,)) for order in ((0, 1), (1, 0), (0, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [s.clicks for s in sessions] == [31, 31]
    (whole,) = ttt4rec.recommend([[100] + [200] * 30], V, whole_history=True)
    for session in sessions:
        assert_same_lists(session.recommend(V), whole)


# A session as bytes


@pytest.mark.parametrize("kind", ["ttt4rec", "sasrec"])
def test_bytes_bring_back_the_same_session(random_dataset, kind, long_history):
    recommender, other = (make_recommender(serving_config(kind), random_dataset) for _ in range(2))
    session = recommender.open_session(long_history[:13])
    blob = session.to_bytes()
    assert blob == session.to_bytes() and len(blob) < 5000
    restored = other.session_from_bytes(blob)  # as in another process
    np.testing.assert_array_equal(restored.memory, session.memory)
    for s in (session, restored):
        s.observe(long_history[13])
    found = restored.recommend(V)
    expected = session.recommend(V)
    assert found.ids == expected.ids and restored.clicks == 14
    np.testing.assert_array_equal(found.scores, expected.scores)
    empty = recommender.session_from_bytes(recommender.open_session().to_bytes())
    assert empty.clicks == 0 and empty.recommend(3).source == "popularity"


def test_bytes_do_not_grow_with_the_clicks(ttt4rec, long_history):
    sizes = [len(ttt4rec.open_session(long_history * n).to_bytes()) for n in (1, 20)]
    assert sizes[1] < sizes[0] + 100


def test_damaged_or_foreign_bytes_are_refused(ttt4rec, sasrec, random_dataset, monkeypatch):
    blob = ttt4rec.open_session([100, 200]).to_bytes()
    for wrong in (
        *(blob[:n] for n in (0, 4, 11, 40, len(blob) - 1)),
        blob + b"x",
        b"TTT4REC\n" + bytes(40),
        b"\x80\x04K\x01.",
    ):
        with pytest.raises(UserError, match=r"^session bytes: [^\n]*$"):
            ttt4rec.session_from_bytes(wrong)
    for place in range(0, len(blob), 7):
        with pytest.raises(UserError):
            ttt4rec.session_from_bytes(blob[:place] + bytes([blob[place] ^ 4]) + blob[place + 1 :])
    with pytest.raises(UserError, match=r"expected what Session\.to_bytes gave"):
        ttt4rec.session_from_bytes("text")
    with pytest.raises(UserError, match="of model"):
        sasrec.session_from_bytes(blob)
    # the same settings with other parameters are another model
    graphdef, params = split_model(ttt4rec.config, random_dataset)
    other = Recommender(
        ttt4rec.config, graphdef, params | {"embedding": params["embedding"] + 1}, ttt4rec.items
    )
    with pytest.raises(UserError, match="of model"):
        other.session_from_bytes(blob)
    monkeypatch.setattr("ttt4rec_jax.serving.session.VERSION", 2)
    with pytest.raises(UserError, match="of version 1, expected 2"):
        ttt4rec.session_from_bytes(blob)


@pytest.mark.parametrize(
    "change",
    [
        {"memory": ["<f4", 10**9]},
        {"memory": "x"},
        {"seen": 10**9},
        {"clicks": -1},
        {"clicks": None},
    ],
)
def test_a_header_that_lies_is_refused_whatever_its_check(ttt4rec, change):
    import json

    from ttt4rec_jax.serving import session

    blob = ttt4rec.open_session([100]).to_bytes()
    stop = 12 + int.from_bytes(blob[8:12], "little")
    header = json.dumps(json.loads(blob[12:stop]) | change).encode()
    forged = (
        blob[:8] + len(header).to_bytes(4, "little") + header + blob[stop : -session.CHECK_BYTES]
    )
    with pytest.raises(UserError, match=r"^session bytes: [^\n]*$"):
        ttt4rec.session_from_bytes(forged + session.check_bytes(forged))


# From a folder


def test_recommender_is_a_name_of_the_package():
    assert ttt4rec_jax.Recommender is Recommender
    with pytest.raises(AttributeError, match="no attribute 'Recommend'"):
        _ = ttt4rec_jax.Recommend


@pytest.mark.parametrize("what", ["nothing", "a file", "a sweep", "no checkpoint"])
def test_a_folder_without_a_trained_run_is_refused(random_dataset, tmp_path, what):
    from ttt4rec_jax.config import Config
    from ttt4rec_jax.runs.folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    expected = "holds no run"
    if what == "a file":
        folder.path.write_text("")
    if what == "a sweep":
        folder.path.mkdir()
        (folder.path / "sweep.json").write_text("{}")
        expected = "one of its combinations"
    if what == "no checkpoint":
        config = Config(model=serving_config("sasrec"))
        folder.create(config)
        catalogue.save(folder, catalogue_of(random_dataset), random_dataset, True)
        expected = "no checkpoints/best"
    with pytest.raises(UserError, match=expected):
        Recommender.load(folder.path)


@pytest.mark.parametrize("name", ["popularity", "itemknn"])
def test_a_model_without_training_is_in_its_folder(random_dataset, tmp_path, name):
    from ttt4rec_jax.config import Config
    from ttt4rec_jax.runs.folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    config = Config(model=serving_config(name))
    folder.create(config)
    titles = ["A", None] * (V // 2)
    catalogue.save(folder, catalogue_of(random_dataset, titles), random_dataset, False)
    loaded = Recommender.load(folder.path)
    made = make_recommender(config.model, random_dataset, titles)
    (found,), (expected,) = (r.recommend([[100, 300]], k=V) for r in (loaded, made))
    assert found.ids == expected.ids and found.titles == expected.titles
    np.testing.assert_array_equal(found.scores, expected.scores)
    folder.catalogue.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"catalogue.parquet: cannot be read \([^\n]*$"):
        Recommender.load(folder.path)


def test_ties_of_equal_items_go_to_the_first(random_dataset):
    dataset = make_dataset([[1, 2, 3, 4]] * 5, 700)
    recommender = make_recommender(serving_config("popularity"), dataset)
    assert recommender.recommend([[100]], k=5)[0].ids == [200, 300, 400, 500, 600]
