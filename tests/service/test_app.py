"""The HTTP interface against Recommender, which it must agree with, and its problems and limits."""

import json

import numpy as np
import pytest
from helpers.service import local_service
from starlette.testclient import TestClient

SLOW_WAY = {"content-type": "application/json; charset=utf-8"}  # that hot.py leaves to FastAPI


def is_problem(answer, status, kind, text=""):
    """An answer is a problem as RFC 9457 describes it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"].endswith(f":{kind}") and body["status"] == status and body["title"]
    assert text in body["detail"]
    return True


def same(answer, recommendation):
    """An answer's list is that of Recommender."""
    assert [item["id"] for item in answer["items"]] == [str(id) for id in recommendation.ids]
    scores = [item["score"] for item in answer["items"]]
    np.testing.assert_allclose(scores, recommendation.scores, rtol=1e-4, atol=1e-5)
    titles = recommendation.titles or [None] * len(scores)
    assert [item["title"] for item in answer["items"]] == titles
    assert answer["source"] == recommendation.source
    return True


def opened(client):
    answer = client.post("/v1/sessions")
    assert answer.status_code == 201 and answer.json()["clicks"] == 0
    return answer.json()["id"]


@pytest.mark.parametrize("name", ["ttt", "sasrec"])
def test_a_session_is_that_of_the_recommender(service, request, name):
    _, client = service
    recommender = request.getfixturevalue(name)
    id = opened(client)
    session = recommender.open_session()
    empty = client.get(f"/v1/sessions/{id}/recommendations", params={"k": 3, "model": name})
    assert same(empty.json(), session.recommend(3)) and empty.json()["source"] == "popularity"
    for clicks in ([300], ["700", 100], [300], [2900] * 12):
        answer = client.post(
            f"/v1/sessions/{id}/clicks", json={"items": clicks, "k": 5, "model": name}
        )
        recommender.observe_many([session], [clicks])
        assert answer.status_code == 200 and answer.json()["clicks"] == session.clicks
        assert same(answer.json(), session.recommend(5))
    other = client.get(f"/v1/sessions/{id}/recommendations", params={"k": 20, "model": name})
    assert same(other.json(), session.recommend(20))
    filters = {"exclude": [100, "200"], "exclude_seen": False}
    answer = client.post(
        f"/v1/sessions/{id}/clicks", json={"items": [500], "k": 30, "model": name} | filters
    )
    session.observe(500)
    assert same(answer.json(), session.recommend(30, **filters))


def test_two_models_see_the_same_clicks(service, sasrec):
    _, client = service
    id = opened(client)
    client.post(f"/v1/sessions/{id}/clicks", json={"items": [300, 700], "k": 2})
    session = sasrec.open_session([300, 700])
    answer = client.get(f"/v1/sessions/{id}/recommendations", params={"model": "sasrec"})
    assert same(answer.json(), session.recommend(10))
    session_now = client.get(f"/v1/sessions/{id}").json()
    assert session_now["clicks"] == 2 and [i["id"] for i in session_now["items"]] == ["300", "700"]
    assert client.delete(f"/v1/sessions/{id}").status_code == 204
    for answer in (
        client.get(f"/v1/sessions/{id}"),
        client.delete(f"/v1/sessions/{id}"),
        client.get(f"/v1/sessions/{id}/recommendations"),
        client.post(f"/v1/sessions/{id}/clicks", json={"items": [300], "k": 1}),
    ):
        assert is_problem(answer, 404, "unknown-session")


def test_histories_are_those_of_recommend(service, ttt):
    _, client = service
    histories = [[300, 700], [], ["100"] * 9, [2900]]
    for filters in (
        {},
        {"exclude": [100], "exclude_seen": False},
        {"include_only": [100, 200, 300, 400]},
    ):
        body = {"histories": histories, "k": 7} | filters
        answer = client.post("/v1/recommend", json=body)
        assert answer.status_code == 200
        for found, expected in zip(
            answer.json()["lists"], ttt.recommend(histories, 7, **filters), strict=True
        ):
            assert same(found, expected)


def test_a_repeated_key_adds_nothing(service):
    _, client = service
    id = opened(client)
    path = f"/v1/sessions/{id}/clicks"
    first = client.post(path, json={"items": [300], "k": 3}, headers={"Idempotency-Key": "a"})
    assert "replayed" not in first.json()
    client.post(path, json={"items": [400]}, headers={"Idempotency-Key": "b"})
    again = client.post(path, json={"items": [300], "k": 3}, headers={"Idempotency-Key": "a"})
    assert again.json()["replayed"] and again.json()["clicks"] == 1
    now = client.get(f"/v1/sessions/{id}/recommendations", params={"k": 3}).json()
    assert again.json()["items"] == now["items"]
    assert client.get(f"/v1/sessions/{id}").json()["clicks"] == 2
    other = opened(client)  # keys belong to a session
    answer = client.post(
        f"/v1/sessions/{other}/clicks", json={"items": [300]}, headers={"Idempotency-Key": "a"}
    )
    assert answer.json() == {"clicks": 1}


BAD_CLICKS = [
    ({"items": []}, "invalid"),
    ({"items": ["x"] * 101}, "invalid"),
    ({"items": [True]}, "invalid"),
    ({"items": [1.5]}, "invalid"),
    ({"items": ["x" * 201]}, "invalid"),
    ({"items": "300"}, "invalid"),
    ({"items": [300], "k": 0}, "invalid"),
    ({"items": [300], "k": 101}, "invalid"),
    ({"items": [300], "K": 10}, "invalid"),
    ({"items": [300], "unknown": "maybe"}, "invalid"),
    ({"items": [301]}, "unknown-item"),
    ({"items": [300], "exclude": ["<b>"]}, "unknown-item"),
    ({"k": 3}, "invalid"),
    ([], "invalid"),
]


def test_the_short_way_answers_as_the_long_one(service):
    _, client = service
    id = opened(client)
    twin = opened(client)
    good = [
        {"items": ["300"], "k": 4},
        {"items": [2900, 100], "k": 4, "exclude": [700], "exclude_seen": False},
        {"items": [301, 300], "unknown": "skip", "k": None},
        {"items": [301], "unknown": "skip", "k": 2},
    ]
    for body in [*good, *(body for body, _ in BAD_CLICKS)]:
        text = json.dumps(body)
        short = client.post(
            f"/v1/sessions/{id}/clicks", content=text, headers={"content-type": "application/json"}
        )
        long = client.post(f"/v1/sessions/{twin}/clicks", content=text, headers=SLOW_WAY)
        assert short.status_code == long.status_code and short.json() == long.json()
        own = ("content-type", "cache-control", "x-content-type-options", "content-length")
        assert [short.headers[name] for name in own] == [long.headers[name] for name in own]
    assert client.get(f"/v1/sessions/{id}").json()["clicks"] == 4


@pytest.mark.parametrize("body, kind", BAD_CLICKS)
def test_clicks_of_the_wrong_form_change_nothing(service, body, kind):
    _, client = service
    id = opened(client)
    answer = client.post(f"/v1/sessions/{id}/clicks", json=body)
    assert is_problem(answer, 422, kind)
    assert client.get(f"/v1/sessions/{id}").json()["clicks"] == 0


def test_problems_of_other_kinds(service):
    _, client = service
    id = opened(client)
    clicks = f"/v1/sessions/{id}/clicks"
    as_json = {"content-type": "application/json"}
    assert is_problem(client.post(clicks, content="{", headers=as_json), 400, "bad-request")
    deep = "[" * 100_000
    assert is_problem(client.post(clicks, content=deep, headers=as_json), 400, "bad-request")
    assert is_problem(client.get("/nothing"), 404, "not-found")
    assert is_problem(client.put("/healthz"), 405, "method-not-allowed")
    assert is_problem(client.get("/v1/sessions/a.b"), 422, "invalid")
    answer = client.post(clicks, json={"items": [300], "model": "x"})
    assert is_problem(answer, 404, "unknown-model", "ttt, sasrec")
    large = json.dumps({"items": ["x" * 300_000]})
    assert is_problem(client.post(clicks, content=large, headers=as_json), 413, "too-large")
    chunks = (b"[" * 100_000 for _ in range(4))  # without a length
    assert is_problem(client.post(clicks, content=chunks, headers=as_json), 413, "too-large")
    many = {"histories": [[300]] * 65}
    assert is_problem(client.post("/v1/recommend", json=many), 422, "invalid", "64")
    long = {"histories": [[300] * 1001]}
    assert is_problem(client.post("/v1/recommend", json=long), 422, "invalid", "1000")
    odd = {"Idempotency-Key": "a b"}
    assert is_problem(client.post(clicks, json={"items": [300]}, headers=odd), 422, "invalid")
    other_site = {"Sec-Fetch-Site": "cross-site"}
    assert is_problem(client.post("/v1/sessions", headers=other_site), 403, "cross-site")


def test_items_are_found_by_title_and_id(service):
    _, client = service
    found = client.get("/v1/items", params={"q": "TITLE 3", "model": "sasrec"}).json()["items"]
    assert found == [{"id": "300", "title": "title 3"}, {"id": "3000", "title": "title 30"}]
    found = client.get("/v1/items", params={"q": "290", "limit": 1}).json()["items"]
    assert found == [{"id": "2900", "title": None}]


def test_health_readiness_metrics_and_description(service):
    device, client = service
    assert client.get("/healthz").json() == {"alive": True}
    ready = client.get("/readyz").json()
    assert [model["name"] for model in ready["models"]] == ["ttt", "sasrec"]
    assert "kill -9" in ready["durability"]
    device.is_ready = False
    assert is_problem(client.get("/readyz"), 503, "not-ready")
    assert is_problem(client.post("/v1/sessions"), 503, "not-ready")
    device.is_ready = True
    client.post(f"/v1/sessions/{opened(client)}/clicks", json={"items": [300]})
    metrics = client.get("/metrics").text
    route = 'route="/v1/sessions/{id}/clicks"'
    for name in (f"ttt4rec_requests_total{{{route},", f"ttt4rec_request_seconds_count{{{route}}}"):
        assert name in metrics
    assert "ttt4rec_batch_size_bucket" in metrics and "ttt4rec_sessions " in metrics
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/v1/recommend", "/v1/sessions", "/v1/sessions/{id}", "/v1/sessions/{id}/clicks"),
        *("/v1/sessions/{id}/recommendations", "/v1/items", "/v1/admin/reload"),
        *("/healthz", "/readyz", "/metrics"),
    }


def test_the_key_opens_all_but_health(models, tmp_path, capsys):
    with local_service(models, tmp_path, api_key="secret") as (_, app), TestClient(app) as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        for path in ("/", "/metrics", "/openapi.json", "/v1/items", "/nothing"):
            answer = client.get(path)
            assert is_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Basic")
        for given in ({"Authorization": "Bearer wrong"}, {"X-API-Key": "secret2"}):
            assert is_problem(client.get("/v1/items", headers=given), 401, "unauthorized")
        assert client.get("/v1/items", headers={"Authorization": "Basic !"}).status_code == 401
        for given in ({"Authorization": "bearer secret"}, {"X-API-Key": "secret"}):
            assert client.get("/v1/items", headers=given).status_code == 200
        assert client.get("/", auth=("anyone", "secret")).status_code == 200
    app.log.flush()
    log = capsys.readouterr().err
    lines = [json.loads(line) for line in log.splitlines()]
    noted = [(line["method"], line["route"], line["status"]) for line in lines]
    assert ("GET", "/v1/items", 200) in noted
    assert ("GET", "none", 401) in noted
    assert "secret" not in log
