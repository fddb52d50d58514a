"""Live sessions: equal to whole histories, many at once, few compilations, and their bytes."""

import hashlib
import json
import threading
import zlib

import numpy as np
import pytest
from helpers import (
    STREAMS,
    L,
    V,
    assert_same_lists,
    make_recommender,
    serving_config,
    split_model,
)

from data_prep.settings import UserError
from ttt4rec_jax.config import MODELS
from ttt4rec_jax.serving import engine, recurrent
from ttt4rec_jax.serving.recommender import Recommender
from ttt4rec_jax.serving.session import CHECK_BYTES, check_bytes


@pytest.fixture(scope="module")
def sasrec(recommender_of):
    return recommender_of("sasrec")


@pytest.fixture(scope="module")
def long_history() -> list[int]:
    return (100 * np.random.default_rng(5).integers(1, V + 1, 77)).tolist()


@pytest.fixture(scope="module")
def ttt4rec(recommender_of):
    return recommender_of("ttt4rec b4")


@pytest.fixture
def short_chunks(monkeypatch):
    """Clicks are taken in by chunks of at most 8, so that a short history needs several."""
    monkeypatch.setattr(recurrent, "CHUNK_SIZES", (1, 8))


def test_sessions_that_do_not_go_together_are_refused_and_nothing_changes(ttt4rec, sasrec):
    session = ttt4rec.open_session([100])
    with pytest.raises(UserError, match="duplicate session"):
        ttt4rec.observe_many([session, session], [200, 300])
    with pytest.raises(UserError, match="not in the run's data: 7"):
        ttt4rec.observe_many([session, ttt4rec.open_session()], [200, 7])
    with pytest.raises(UserError, match="another Recommender"):
        sasrec.recommend_many([session])
    assert session.clicks == 1
    assert_same_lists(session.recommend(V), ttt4rec.recommend([[100]], V)[0])


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
    for single, session, recommendation in zip(alone, together, best, strict=True):
        assert_same_lists(recommendation, single.recommend(V, exclude=[100]))
        np.testing.assert_allclose(session.state, single.state, rtol=2e-4, atol=2e-4)
        assert session.clicks == single.clicks
    again = recommender.recommend_many(together, V, exclude=[100])
    for recommendation, expected in zip(again, best, strict=True):
        assert_same_lists(recommendation, expected, rtol=1e-5)
    assert recommender.observe_many(together[:1], [100]) is None
    assert together[0].clicks == 4
    assert recommender.observe_many([], [], k=3) == [] == recommender.recommend_many([])


def test_states_are_advanced_in_batches_that_stay_in_a_cache(
    random_dataset, ttt4rec, long_history, monkeypatch
):
    monkeypatch.setattr(engine, "MAX_STATES", 3 * ttt4rec.engine.max_state_size)
    recommender = make_recommender(ttt4rec.config, random_dataset)
    assert recommender.engine.state_batch_sizes == [1, 2]
    clicks = long_history[:5]
    sessions = [recommender.open_session() for _ in clicks]
    best = recommender.observe_many(sessions, clicks, k=V)
    for session, recommendation, click in zip(sessions, best, clicks, strict=True):
        alone = ttt4rec.open_session([click])
        assert_same_lists(recommendation, alone.recommend(V))
        np.testing.assert_allclose(session.state, alone.state, rtol=2e-4, atol=2e-4)


def test_requests_of_any_size_share_a_few_programs(random_dataset, long_history):
    config = serving_config("ttt4rec", mini_batch_size=1, ffn="none")
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
    best = restored.recommend(V)
    expected = session.recommend(V)
    assert best.ids == expected.ids and restored.clicks == 9
    np.testing.assert_array_equal(best.scores, expected.scores)
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
    with pytest.raises(UserError, match="found version 1, expected 2"):
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
