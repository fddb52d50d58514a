"""Times of clicks over HTTP, for models that read them, against Recommender."""

import pytest
from helpers import make_recommender, serving_config, timed_dataset
from helpers.service import local_service
from starlette.testclient import TestClient

from ttt4rec_jax.service.live import clicks_between
from ttt4rec_jax.service.models import RunModel
from ttt4rec_jax.service.store import Append, Changes, Clicks

NOW = 1_700_000_000.0
SECONDS = [0, 0, 45, 4000, 90_000, 90_002, 300_000]
ITEMS = [300, 700, 300, 1100, 2900, 100, 1300]
TIMES = [NOW - 400_000 + s for s in SECONDS]


@pytest.fixture(scope="module")
def recommenders():
    data = timed_dataset()
    made = {}
    for name, model, time in (
        ("gaps", "ttt4rec", "gaps"),
        ("request", "ttt4rec", "request"),
        ("window", "sasrec", "request"),
        ("plain", "sasrec", "none"),
    ):
        made[name] = make_recommender(serving_config(model, time=time), data)
    return made


@pytest.fixture
def serve(recommenders, tmp_path):
    """A function that starts a service of these models on the same store, and returns a client."""
    services = []

    def make(names=("gaps", "request", "window", "plain"), now=NOW, **settings):
        models = {name: RunModel(recommenders[name], 100) for name in names}
        service = local_service(models, tmp_path, **settings)
        link, app = service.__enter__()
        link.device.executor.now = lambda: now
        services.append(service)
        return TestClient(app), link.device.executor

    yield make
    for service in services:
        service.__exit__(None, None, None)


def same(answer, best):
    assert [item["id"] for item in answer["items"]] == [str(id) for id in best.ids]
    scores = [item["score"] for item in answer["items"]]
    assert scores == pytest.approx(best.scores.tolist(), rel=1e-3, abs=1e-4)


def lists_of(client, id, **query):
    answer = client.get(f"/v1/sessions/{id}/recommendations", params={"k": 9, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("name", ["gaps", "request", "window"])
def test_a_session_reads_times_as_the_recommender_does(serve, recommenders, name):
    """With lists and without; cached; computed from clicks; saved, and read by another process."""
    recommender = recommenders[name]
    asks = {"at": NOW} if name != "gaps" else {}
    client, executor = serve(cached_sessions=1)
    id, other = (client.post("/v1/sessions").json()["id"] for _ in range(2))
    session = recommender.open_session()
    start = 0
    for stop, k in ((1, 9), (2, None), (5, 9), (6, 9), (7, None)):
        clicks = ITEMS[start:stop]
        times = TIMES[start:stop]
        recommender.observe_many([session], [clicks], times=[times])
        body = {"items": clicks, "times": times, "k": k, "model": name}
        answer = client.post(f"/v1/sessions/{id}/clicks", json=body).json()
        assert answer["clicks"] == stop
        if k:
            same(answer, session.recommend(9, **asks))
        start = stop
        same(lists_of(client, id, model=name), session.recommend(9, **asks))
        client.post(f"/v1/sessions/{other}/clicks", json={"items": [100], "k": 1, "model": name})
        same(lists_of(client, id, model=name), session.recommend(9, **asks))
    if name != "gaps":
        later = lists_of(client, id, model=name, at=NOW + 1e6)
        same(later, session.recommend(9, at=NOW + 1e6))
        same(lists_of(client, id, model=name), session.recommend(9, at=NOW))
        assert later["items"] != lists_of(client, id, model=name)["items"]
    # enough clicks for the state to be saved; those without a time are made now
    many = (ITEMS * 10)[:64]
    recommender.observe_many([session], [many], times=[[NOW] * 64])
    client.post(f"/v1/sessions/{id}/clicks", json={"items": many, "k": 1, "model": name})
    client.post(f"/v1/sessions/{other}/clicks", json={"items": [100]})  # its commit saves the state
    version = executor.served[name].model.version
    assert executor.store.saved(id, version).clicks == 71
    executor.store.writer.execute("DELETE FROM clicks WHERE session = ?", (id,))
    restarted, _ = serve(names=[name])
    same(lists_of(restarted, id), session.recommend(9, **asks))


def test_histories_come_with_their_times(serve, recommenders):
    client, _ = serve()
    body = {"histories": [[*ITEMS, 5], [], [100]], "k": 9, "unknown": "skip"}
    body |= {"times": [[*TIMES, NOW], [], [TIMES[0]]]}
    for name, asks in (("gaps", {}), ("request", {"at": NOW}), ("plain", {})):
        answer = client.post("/v1/recommend", json=body | {"model": name} | asks)
        assert answer.status_code == 200, answer.text
        times = None if name == "plain" else [TIMES, [], [TIMES[0]]]
        expected = recommenders[name].recommend([ITEMS, [], [100]], 9, times=times, **asks)
        for found, best in zip(answer.json()["lists"], expected, strict=True):
            same(found, best)
    for change, text in (
        ({"times": None}, "times: missing, but the model reads"),
        ({"times": [[1.0], [], [1.0]]}, "times: found [1, 0, 1] for [8, 0, 1] clicks"),
        ({"times": [[*TIMES[::-1], NOW], [], [1.0]]}, "before the previous click"),
        ({"at": TIMES[0]}, "at: "),
        ({"at": 1.7e12}, "less than or equal to"),
    ):
        answer = client.post("/v1/recommend", json=body | {"model": "request"} | change)
        assert answer.status_code == 422 and text in answer.json()["detail"]


def test_times_that_run_backwards_lose_no_click(serve, recommenders):
    client, _ = serve()
    id = client.post("/v1/sessions").json()["id"]
    url = f"/v1/sessions/{id}/clicks"
    client.post(url, json={"items": [300, 700, 500], "times": [40, 50, 20]})
    client.post(url, json={"items": [1100], "times": [30], "k": 3})
    kept = client.get(f"/v1/sessions/{id}").json()["items"]
    assert [(item["id"], item["time"]) for item in kept][2:] == [("500", 20), ("1100", 30)]
    read = [40, 50, 50, 50]
    expected = recommenders["request"].open_session([300, 700, 500, 1100], times=read)
    same(lists_of(client, id, model="request", at=10), expected.recommend(9, at=50))
    # a history whose last click is later than this service's present
    body = {"histories": [[300]], "times": [[NOW + 5]], "k": 9, "model": "request"}
    (found,) = client.post("/v1/recommend", json=body).json()["lists"]
    (best,) = recommenders["request"].recommend([[300]], 9, times=[[NOW + 5]], at=NOW + 5)
    same(found, best)
    wrong = client.post(url, json={"items": [300, 700], "times": [60]})
    assert wrong.status_code == 422 and "found 1 for 2 items" in wrong.json()["detail"]


def test_clicks_are_found_with_their_times():
    kept = [Clicks(0, ["a", "b", "c"], [1.0, 2.0, 3.0]), Clicks(3, ["d"], [4.0])]
    assert clicks_between(kept, 1, 4) == (["b", "c", "d"], [2.0, 3.0, 4.0])
    assert clicks_between(kept[:1], 0, 2) == (["a", "b"], [1.0, 2.0])
    assert clicks_between(kept[1:], 2, 4) is None


def test_clicks_without_times_are_no_state_of_a_model_that_reads_them(serve):
    client, executor = serve()
    id = client.post("/v1/sessions").json()["id"]
    executor.store.commit(Changes(appends=[Append(id, Clicks(0, ["300"]), "")]))
    assert lists_of(client, id, model="plain")["clicks"] == 1
    answer = client.get(f"/v1/sessions/{id}/recommendations", params={"model": "gaps"})
    assert answer.status_code == 409 and "kept no times" in answer.json()["detail"]
    assert client.get(f"/v1/sessions/{id}").json()["items"][0]["time"] is None
