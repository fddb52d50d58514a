"""Recommender: evaluation's scores, filters, sessions in every way, and few compilations."""

import hashlib
import json
import threading
import zlib

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
from ttt4rec_jax.config import MODELS, Config
from ttt4rec_jax.data import batches
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.serving import engine, recurrent
from ttt4rec_jax.serving.recommender import Recommender
from ttt4rec_jax.serving.session import CHECK_BYTES, check_bytes


@pytest.fixture(scope="module")
def long_history() -> list[int]:
    return (100 * np.random.default_rng(5).integers(1, V + 1, 77)).tolist()


@pytest.fixture(scope="module")
def sasrec(recommender_of):
    return recommender_of("sasrec")


@pytest.fixture(scope="module")
def ttt4rec(recommender_of):
    return recommender_of("ttt4rec b4")


@pytest.fixture
def short_chunks(monkeypatch):
    """Clicks are taken in by chunks of at most 8, so that a short history needs several."""
    monkeypatch.setattr(recurrent, "CHUNK_SIZES", (1, 8))


# Scores


@pytest.mark.parametrize(
    "case, lengths",
    [(case, None) for case in [*MODELS, "ttt4rec b4"] if case != "ttt4rec"]
    + [("sasrec", (2, 5, L))],
)
def test_test_histories_give_the_metrics_of_the_evaluation(
    random_dataset, recommender_of, case, lengths, monkeypatch
):
    recommender = recommender_of(case)
    if lengths:  # several groups of histories by length
        for module in (ranking, engine):
            monkeypatch.setattr(module, "lengths_read", lambda max_len: lengths)
        recommender = make_recommender(recommender.config, random_dataset)
    graphdef, params = split_model(recommender.config, random_dataset)
    evaluator = ranking.Evaluator(
        graphdef, params, random_dataset, batches.device_clicks(random_dataset), L
    )
    expected = metrics.summarise(evaluator(params, "test")["full"])
    targets = random_dataset.test
    histories = [
        random_dataset.items[random_dataset.offsets[user] : position]
        for position, user in zip(targets.positions, targets.users, strict=True)
    ]
    ids = [(100 * history).tolist() for history in histories]
    ranks = []
    for history, target, best, all_items in zip(
        ids,
        100 * random_dataset.items[targets.positions],
        recommender.recommend(ids, k=V),
        recommender.recommend(ids, k=V, exclude_seen=False),
        strict=True,
    ):
        assert set(best.ids) == {100 * i for i in range(1, V + 1)} - set(history)
        # in the evaluation, a target that was clicked before stays a candidate
        target_score = dict(zip(all_items.ids, all_items.scores, strict=True))[target]
        others = np.array(
            [score for id, score in zip(best.ids, best.scores, strict=True) if id != target]
        )
        ranks.append(((others > target_score).sum(), (others == target_score).sum(), len(others)))
    assert metrics.summarise(metrics.Ranks(*np.array(ranks).T)) == expected


@pytest.mark.parametrize("name", ["sasrec", "din"])
def test_batches_give_what_single_histories_give(random_dataset, name, monkeypatch):
    # Given several tiles of the catalogue, several batches, and a last one that is not full
    monkeypatch.setattr(ranking, "TILE", 16)
    monkeypatch.setattr(engine, "MAX_SCORES", 16 * 2 * 4)
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


def test_an_empty_history_gets_popular_items(sasrec, random_dataset):
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
    with pytest.raises(UserError, match="duplicate session"):
        ttt4rec.observe_many([session, session], [200, 300])
    with pytest.raises(UserError, match="does not have: 7"):
        ttt4rec.observe_many([session, ttt4rec.open_session()], [200, 7])
    with pytest.raises(UserError, match="another Recommender"):
        sasrec.recommend_many([session])
    assert session.clicks == 1
    assert_same_lists(session.recommend(V), ttt4rec.recommend([[100]], V)[0])


# Sessions


@pytest.mark.parametrize("name", STREAMS)
def test_a_session_equals_the_whole_history(recommender_of, name, long_history, short_chunks):
    recommender = recommender_of(f"ttt4rec {name}")
    assert recommender.is_constant_cost
    counts = (1, 3, 4, 5, 8, 17, 20, 23)  # whole mini-batches and partial ones
    whole = recommender.recommend(
        [long_history[:n] for n in counts], V, whole_history=True, exclude_seen=False
    )
    expected = dict(zip(counts, whole, strict=True))
    session = recommender.open_session()
    assert session.is_constant_cost
    for n, click in enumerate(long_history[:23], 1):
        session.observe(str(click))
        if n in counts:
            assert_same_lists(session.recommend(V, exclude_seen=False), expected[n])
    assert session.clicks == 23
    items = {100 * i for i in range(1, V + 1)}
    assert set(session.recommend(V).ids) == items - set(long_history[:23])
    opened = recommender.open_session(long_history[:23])  # in more than one chunk
    assert_same_lists(opened.recommend(V, exclude_seen=False), expected[23])


def test_a_session_no_longer_than_the_window_equals_the_evaluation(ttt4rec, long_history):
    session = ttt4rec.open_session()
    for click in long_history[:L]:
        session.observe(click)
    assert_same_lists(session.recommend(V), ttt4rec.recommend([long_history[:L]], V)[0])


def test_a_state_remembers_what_a_window_forgets(ttt4rec, long_history, short_chunks):
    history = long_history[:20]
    changed = [3000 if history[0] != 3000 else 2900, *history[1:]]
    sessions = [ttt4rec.open_session(clicks) for clicks in (history, changed)]
    scores = [session.recommend(V, exclude_seen=False).scores for session in sessions]
    assert np.abs(scores[0] - scores[1]).max() > 1e-5
    windows = [
        ttt4rec.recommend([clicks], V, exclude_seen=False)[0].scores
        for clicks in (history, changed)
    ]
    np.testing.assert_array_equal(*windows)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name != "ttt4rec"] + ["ttt4rec with positions"]
)
def test_a_session_without_a_state_reads_the_last_clicks_again(
    random_dataset, recommender_of, name, long_history
):
    recommender = (
        make_recommender(serving_config("ttt4rec", positions="learned"), random_dataset)
        if name == "ttt4rec with positions"
        else recommender_of(name)
    )
    session = recommender.open_session(long_history[:2])
    assert not session.is_constant_cost
    for n in range(3, 10):
        session.observe(long_history[n - 1])
    (expected,) = recommender.recommend([long_history[:9]], V)
    assert_same_lists(session.recommend(V), expected, rtol=1e-5)
    assert session.clicks == 9 and len(session.state) == L


@pytest.mark.parametrize("case", ["ttt4rec b4", "sasrec", "itemknn"])
def test_many_sessions_at_once_equal_each_alone(recommender_of, case, long_history, short_chunks):
    recommender = recommender_of(case)
    clicks = [long_history[:3], [], long_history[3:4], long_history[4:15], long_history[:70]]
    alone = [recommender.open_session(c) for c in clicks]
    together = [recommender.open_session() for _ in clicks]
    best = recommender.observe_many(together, clicks, k=V, exclude=[100])
    for single, session, found in zip(alone, together, best, strict=True):
        assert_same_lists(found, single.recommend(V, exclude=[100]))
        np.testing.assert_allclose(session.state, single.state, rtol=2e-4, atol=2e-4)
        assert session.clicks == single.clicks
    again = recommender.recommend_many(together, V, exclude=[100])
    for found, expected in zip(again, best, strict=True):
        assert_same_lists(found, expected, rtol=1e-5)
    assert recommender.observe_many(together[:1], [100]) is None
    assert together[0].clicks == 4
    assert recommender.observe_many([], [], k=3) == [] == recommender.recommend_many([])


def test_requests_of_any_size_share_a_few_programs(random_dataset, long_history):
    config = serving_config("ttt4rec", mini_batch_size=1, ffn=False)
    recommender = make_recommender(config, random_dataset)
    programs = recommender.engine.recurrent
    for size in (1, 2, 3, 4):
        sessions = [recommender.open_session() for _ in range(size)]
        for k in (1, 5, 10, 16):
            recommender.observe_many(
                sessions, [long_history[size]] * size, k=k, exclude=[100 * size]
            )
        for count in (2, 5, 8):
            recommender.observe_many(sessions, [long_history[:count]] * size)
    assert programs.advance_and_top_k._cache_size() == 3  # sizes 1, 2, 4
    assert programs.advance._cache_size() == 3  # of chunks of 8 clicks
    for size in (3, 4):
        for k in (2, 9):
            histories = [[100] * n for n in range(1, size + 1)]
            recommender.recommend(histories, k, include_only=[300 * k])
    assert recommender.engine.encode._cache_size() == 1
    assert recommender.engine.top_k_of_users._cache_size() == 1


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


@pytest.mark.parametrize("case", ["ttt4rec b4", "sasrec"])
def test_bytes_restore_the_same_session(random_dataset, recommender_of, case, long_history):
    recommender = recommender_of(case)
    titles = recommender.items.titles
    other = make_recommender(recommender.config, random_dataset, titles)  # as another process would
    session = recommender.open_session(long_history[:8])
    blob = session.to_bytes()
    assert blob == session.to_bytes() and len(blob) < 5000
    restored = other.session_from_bytes(blob)
    np.testing.assert_array_equal(restored.state, session.state)
    for s in (session, restored):
        s.observe(long_history[8])
    found = restored.recommend(V)
    expected = session.recommend(V)
    assert found.ids == expected.ids and restored.clicks == 9
    np.testing.assert_array_equal(found.scores, expected.scores)
    empty = recommender.session_from_bytes(recommender.open_session().to_bytes())
    assert empty.clicks == 0 and empty.recommend(3).source == "popularity"


def test_the_bytes_of_a_session_have_the_documented_format(ttt4rec):
    blob = ttt4rec.open_session([100, 200]).to_bytes()
    size = int.from_bytes(blob[8:12], "little")
    header = json.loads(blob[12 : 12 + size])
    assert blob[:8] == b"TTT4REC\n" and header == {
        "version": 1,
        "model": ttt4rec.fingerprint,
        "clicks": 2,
        "memory": ["<f4", len(ttt4rec.engine.initial_state)],
        "seen": 4,
    }
    content = zlib.decompress(blob[12 + size : -16])
    assert content[-4:] == bytes([3, 0, 0, 0])
    assert len(content) == 4 * header["memory"][1] + 4
    assert hashlib.blake2b(blob[:-16], digest_size=16).digest() == blob[-16:]


def test_bytes_do_not_grow_with_the_clicks(ttt4rec, long_history, short_chunks):
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
    with pytest.raises(UserError, match=r"expected the result of Session\.to_bytes"):
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
    blob = ttt4rec.open_session([100]).to_bytes()
    stop = 12 + int.from_bytes(blob[8:12], "little")
    header = json.dumps(json.loads(blob[12:stop]) | change).encode()
    forged = blob[:8] + len(header).to_bytes(4, "little") + header + blob[stop:-CHECK_BYTES]
    with pytest.raises(UserError, match=r"^session bytes: [^\n]*$"):
        ttt4rec.session_from_bytes(forged + check_bytes(forged))


# From a folder


def test_recommender_is_a_name_of_the_package():
    assert ttt4rec_jax.Recommender is Recommender
    with pytest.raises(AttributeError, match="no attribute 'Recommend'"):
        _ = ttt4rec_jax.Recommend


@pytest.mark.parametrize("what", ["nothing", "a file", "a sweep", "no checkpoint"])
def test_a_folder_without_a_trained_run_is_refused(random_dataset, tmp_path, what):
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
        catalogue.leave(folder, catalogue_of(random_dataset), random_dataset, True)
        expected = "no checkpoints/best"
    with pytest.raises(UserError, match=expected):
        Recommender.load(folder.path)


@pytest.mark.parametrize("name", ["popularity", "itemknn"])
def test_a_model_without_training_is_in_its_folder(random_dataset, tmp_path, name):
    folder = RunFolder(tmp_path / "run")
    config = Config(model=serving_config(name))
    folder.create(config)
    titles = ["A", None] * (V // 2)
    catalogue.leave(folder, catalogue_of(random_dataset, titles), random_dataset, False)
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
