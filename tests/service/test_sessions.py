"""States of sessions are functions of their stored clicks, whatever happens between."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import split_model
from helpers.service import local_service
from starlette.testclient import TestClient

from data_prep.settings import UserError
from ttt4rec_jax.service.executor import Executor
from ttt4rec_jax.service.models import RunModel
from ttt4rec_jax.service.redis_store import RedisStore
from ttt4rec_jax.service.requests import Answer, Request
from ttt4rec_jax.service.settings import ServiceConfig
from ttt4rec_jax.service.sqlite_store import SqliteStore
from ttt4rec_jax.service.store import StoreError
from ttt4rec_jax.serving.recommender import Recommender


@pytest.fixture(params=["sqlite"])
def make_executor(models, tmp_path, request):
    """A function that starts another process's executor of the same store, so to speak."""
    executors = []

    def open_store(config):
        options = config.session_ttl_s, config.keep_clicks
        if request.param == "sqlite":
            return SqliteStore(tmp_path / "s.sqlite3", *options)
        return RedisStore(request.getfixturevalue("redis_url"), *options)

    def make(models=models, **settings):
        config = ServiceConfig(**{"max_batch": 8, "keep_clicks": 64} | settings)
        executors.append(Executor(models, open_store(config), config))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


in_every_store = pytest.mark.parametrize("make_executor", ["sqlite", "redis"], indirect=True)


def json_of(answer: Answer):
    return json.loads(answer.body)


def open_session(executor) -> str:
    (answer,) = executor.execute([Request("create")])
    return json_of(answer)["id"]


def click(executor, session, *items, **options):
    request = Request("clicks", session=session, items=list(items), **options)
    for _ in range(3):  # None: to be executed again, as batching.py does
        (answer,) = executor.execute([request])
        if answer:
            return answer
    raise AssertionError("executed three times without an answer")


def best(executor, session, model="", k=10):
    (answer,) = executor.execute([Request("list", session=session, k=k, model=model)])
    return json_of(answer)


def assert_same_lists(found, recommendation):
    assert [item["id"] for item in found["items"]] == [str(id) for id in recommendation.ids]
    scores = [item["score"] for item in found["items"]]
    np.testing.assert_allclose(scores, recommendation.scores, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def long_history():
    return (100 * np.random.default_rng(0).integers(1, 31, 200)).tolist()


@pytest.mark.parametrize("name", ["ttt", "sasrec"])
def test_a_state_is_the_same_however_it_came_about(make_executor, request, long_history, name):
    """Cached; computed from clicks; read from the store and brought up to date by another one."""
    recommender = request.getfixturevalue(name)
    first = make_executor(cached_sessions=1)
    id = open_session(first)
    other_id = open_session(first)
    session = recommender.open_session()
    start = 0
    for stop, with_list in (
        (3, True),
        (4, False),
        (40, False),
        (63, True),
        (64, True),
        (150, True),
    ):
        clicks = long_history[start:stop]
        recommender.observe_many([session], [clicks])
        click(first, id, *clicks, k=5 if with_list else 0, model=name)
        start = stop
        assert_same_lists(best(first, id, name), session.recommend(10))
        click(first, other_id, 100, k=1, model=name)  # drives the first one out of memory
        assert len(first.served[name].live.entries) == 1
        assert_same_lists(best(first, id, name), session.recommend(10))
        assert_same_lists(best(make_executor(), id, name), session.recommend(10))
    version = first.served[name].model.version
    assert first.store.saved(id, version).clicks >= 64


@in_every_store
def test_a_new_model_reads_the_kept_clicks_or_refuses(
    make_executor, ttt, random_dataset, long_history
):
    graphdef, _ = split_model(ttt.config, random_dataset)
    changed = {
        key: value * 1.5 if key == "embedding" else value for key, value in ttt.params.items()
    }
    executor = make_executor()
    newer = Recommender(ttt.config, graphdef, changed, ttt.items)
    short = open_session(executor)
    long = open_session(executor)
    click(executor, short, *long_history[:60], k=1)
    for start in range(0, 200, 50):
        click(executor, long, *long_history[start : start + 50], k=1)
    click(executor, long, 100, k=1)  # its commit saves the state, and drops old clicks
    executor.use({"newer": RunModel(newer, 100)})
    expected = newer.open_session(long_history[:60]).recommend(10)
    assert_same_lists(best(executor, short), expected)
    refused = click(executor, long, 100, k=3)
    assert refused.status == 409 and b"no longer kept" in refused.body
    assert json_of(executor.execute([Request("session", session=long)])[0])["clicks"] == 201


@in_every_store
def test_replicas_share_a_session(make_executor, ttt, long_history):
    replicas = [make_executor(), make_executor()]
    id = open_session(replicas[0])
    session = ttt.open_session()
    for turn, item in enumerate(long_history[:30]):
        answer = json_of(click(replicas[turn % 2], id, item, k=5))
        session.observe(item)
        assert answer["clicks"] == turn + 1
        assert_same_lists(answer, session.recommend(5))


@in_every_store
def test_a_click_that_comes_between_is_noticed(make_executor, monkeypatch):
    one = make_executor()
    two = make_executor()
    id = open_session(one)
    look_up = one._look_up

    def slow_look_up(rows):
        look_up(rows)
        click(two, id, 200, k=1, key="two")

    monkeypatch.setattr(one, "_look_up", slow_look_up)
    request = Request("clicks", session=id, items=[300], k=3, key="one")
    assert one.execute([request]) == [None]  # to be executed again
    monkeypatch.undo()
    (answer,) = one.execute([request])
    assert json_of(answer)["clicks"] == 2
    session = json_of(two.execute([Request("session", session=id)])[0])
    assert [item["id"] for item in session["items"]] == ["200", "300"]


def test_what_could_not_be_written_is_not_acknowledged(make_executor, monkeypatch, ttt):
    executor = make_executor()
    id = open_session(executor)
    click(executor, id, 300, k=3)

    def fail(changes):
        raise StoreError("SQLite: disk I/O error")

    monkeypatch.setattr(executor.store, "commit", fail)
    failed = click(executor, id, 700, k=3)
    assert failed.status == 503 and b"disk I/O error" in failed.body and failed.retry_after
    reading = best(executor, id, k=3)  # needs no commit
    monkeypatch.undo()
    expected = ttt.open_session([300]).recommend(3)
    assert_same_lists(reading, expected)
    assert_same_lists(best(executor, id, k=3), expected)


def test_a_failing_device_leaves_no_wrong_state(make_executor, monkeypatch, ttt):
    executor = make_executor()
    id = open_session(executor)
    click(executor, id, 300, k=3)
    model = executor.served["ttt"].model

    def fail(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "step", fail)
    with pytest.raises(RuntimeError):
        click(executor, id, 700, 800, k=3)
    monkeypatch.undo()  # the clicks are written all the same
    assert_same_lists(best(executor, id), ttt.open_session([300, 700, 800]).recommend(10))


def test_one_batch_answers_requests_of_every_kind(make_executor, ttt):
    executor = make_executor()
    ids = [open_session(executor) for _ in range(4)]
    answers = executor.execute(
        [
            Request("clicks", session=ids[0], items=[300], k=2),
            Request("clicks", session=ids[1], items=[300, 700], k=20, exclude=[100]),
            Request("clicks", session=ids[2], items=[300]),
            Request("list", session=ids[3], k=3),
            Request("recommend", histories=[[300], []], k=4),
            Request("clicks", session="nobody", items=[300], k=1),
            Request("clicks", session=ids[3][:-1], items=[5], k=1),
            Request("create"),
        ]
    )
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 404, 422, 201]
    bodies = [json_of(answer) for answer in answers]
    assert_same_lists(bodies[0], ttt.open_session([300]).recommend(2))
    assert_same_lists(bodies[1], ttt.open_session([300, 700]).recommend(20, exclude=[100]))
    assert bodies[2] == {"clicks": 1}
    assert bodies[3]["source"] == "popularity" and len(bodies[3]["items"]) == 3
    for found, expected in zip(bodies[4]["lists"], ttt.recommend([[300], []], 4), strict=True):
        assert_same_lists(found, expected)


def test_sessions_are_bounded_and_expire(models, tmp_path):
    moment = 1000.0
    settings = {"max_sessions": 2, "session_ttl_s": 10}
    with local_service(models, tmp_path, now=lambda: moment, **settings) as (link, app):
        client = TestClient(app)
        first = client.post("/v1/sessions").json()["id"]
        assert client.post("/v1/sessions").status_code == 201
        refused = client.post("/v1/sessions")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        client.delete(f"/v1/sessions/{first}")
        assert client.post("/v1/sessions").status_code == 201
        moment = 1010.0
        executor = link.device.executor
        executor.next_purge = 0
        executor.purge_if_due()
        assert executor.num_sessions == 0
        assert client.post("/v1/sessions").status_code == 201


def test_models_are_replaced_without_a_pause(models, tmp_path):
    with local_service(dict(models), tmp_path) as (link, app), TestClient(app) as client:
        id = client.post("/v1/sessions").json()["id"]
        client.post(f"/v1/sessions/{id}/clicks", json={"items": [300], "k": 1})
        link.device.config = dataclasses.replace(link.device.config, max_batch=1)
        link.device.load = lambda: {"sasrec": models["sasrec"]}
        reloaded = client.post("/v1/admin/reload").json()
        assert [model["name"] for model in reloaded["models"]] == ["sasrec"]
        answer = client.get(f"/v1/sessions/{id}/recommendations", params={"k": 1}).json()
        assert answer["items"][0]["title"].startswith("title")

        def fail():
            raise UserError("/a/secret/path: damaged")

        link.device.load = fail
        answer = client.post("/v1/admin/reload")
        assert answer.status_code == 500 and "secret" not in answer.text
        assert client.get(f"/v1/sessions/{id}/recommendations").status_code == 200


@in_every_store
def test_clicks_of_another_process_are_noticed(make_executor, ttt):
    """A process that remembers a session's clicks writes none on top of what others added."""
    here = make_executor()
    other = make_executor()
    session = open_session(here)
    assert json_of(click(here, session, 100))["clicks"] == 1
    assert json_of(click(other, session, 200, 300))["clicks"] == 3
    found = json_of(click(here, session, 400, k=5))
    assert found["clicks"] == 4
    assert_same_lists(found, ttt.open_session([100, 200, 300, 400]).recommend(5))
    other.execute([Request("delete", session=session)])
    assert click(here, session, 100).status == 404


def test_a_click_reads_no_count_from_a_store_of_its_own(make_executor, monkeypatch):
    executor = make_executor()
    session = open_session(executor)
    click(executor, session, 100)
    monkeypatch.setattr(executor.store, "counts", None)  # it would fail if it were called
    assert json_of(click(executor, session, 200, k=3))["clicks"] == 2


def test_a_wrong_memory_of_a_session_is_corrected(make_executor, ttt):
    """As after a store was restored from an older copy: nothing is refused for it."""
    executor = make_executor()
    session = open_session(executor)
    click(executor, session, 100, 200)
    executor.counts[session] = 10
    for served in executor.served.values():
        served.live.drop(session)
    found = json_of(click(executor, session, 300, k=5))
    assert found["clicks"] == 3
    assert_same_lists(found, ttt.open_session([100, 200, 300]).recommend(5))
