"""Runs and exports behind one set of calls, in shapes that are compiled before any request."""

import jax
import numpy as np
import pytest
from helpers import SERVING_CASES, make_recommender, serving_config, split_model
from helpers.service import local_service
from starlette.testclient import TestClient

from ttt4rec_jax.service import models
from ttt4rec_jax.service.models import RunModel
from ttt4rec_jax.serving.export import export_model
from ttt4rec_jax.serving.recommender import Recommender

SIZES = (1, 4)


@pytest.mark.parametrize("case", ["ttt4rec b4", "sasrec", "din"])
def test_no_request_waits_for_a_compilation(random_dataset, case):
    config = serving_config(case.split()[0], **SERVING_CASES[case])
    made = make_recommender(config, random_dataset)
    graphdef, params = split_model(config, random_dataset)
    model = RunModel(Recommender(config, graphdef, params, made.items, SIZES), 30)
    assert len(list(models.warm(model, SIZES))) == len(SIZES)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **more: "backend_compile" in event and compiled.append(more)
    )
    jax.jit(lambda x: x + len(case))(1)
    assert len(compiled) == 1  # it is noticed
    rng = np.random.default_rng(0)
    for rows in (1, 2, 3, 4):
        states = [model.initial_state] * rows
        excluded = np.repeat(model.nothing_excluded[None], rows, 0)
        histories = [rng.integers(1, 31, n).astype(np.int32) for n in (0, 1, 3, 200)][:rows]
        model.advance(states, histories)
        for k in (1, 16, 17, 30):
            computed = models.k_computed(model, k)
            model.step(states, [history[:1] for history in histories], excluded, computed)
            model.rank(histories, excluded, computed)
    assert len(compiled) == 1, compiled[1:]


@pytest.mark.parametrize("case", ["ttt4rec b4", "sasrec"])
def test_an_export_answers_as_its_run(recommender_of, random_dataset, tmp_path, case):
    recommender = recommender_of(case)
    graphdef, _ = split_model(recommender.config, random_dataset)
    parts = recommender.config, graphdef, recommender.params, recommender.items
    export_model(*parts, tmp_path / "export", k=5)
    assert models.is_export(str(tmp_path / "export"))
    exported = models.load(str(tmp_path / "export"), SIZES, 100)
    assert exported.max_k == 5
    both = {"run": RunModel(recommender, 100), "export": exported}
    clicks = (100 * np.random.default_rng(0).integers(1, 13, 70)).tolist()
    with local_service(both, tmp_path, max_batch=4) as (_, app), TestClient(app) as client:
        id = client.post("/v1/sessions").json()["id"]
        for start, stop in ((0, 1), (1, 4), (4, 70)):
            body = {"items": clicks[start:stop], "k": 5, "exclude": [100], "model": "run"}
            client.post(f"/v1/sessions/{id}/clicks", json=body)
            found = [
                client.get(
                    f"/v1/sessions/{id}/recommendations", params={"k": 10, "model": name}
                ).json()["items"][:5]
                for name in both
            ]
            assert len(found[1]) == 5
            assert_close(*found)
        body = {"histories": [clicks[:3], clicks, []], "k": 5, "exclude_seen": False}
        lists = [
            client.post("/v1/recommend", json=body | {"model": name}).json()["lists"]
            for name in both
        ]
        for a, b in zip(*lists, strict=True):
            assert a["source"] == b["source"]
            assert_close(a["items"], b["items"])


def assert_close(a, b):
    """Two lists have the same items, and scores up to rounding."""
    assert [item["id"] for item in a] == [item["id"] for item in b]
    np.testing.assert_allclose(
        [item["score"] for item in a], [item["score"] for item in b], rtol=1e-3, atol=1e-4
    )


def test_a_damaged_model_is_a_problem(random_dataset, tmp_path):
    config = serving_config("sasrec")
    made = make_recommender(config, random_dataset)
    graphdef, params = split_model(config, random_dataset)
    params["embedding"] = params["embedding"].at[3].set(np.nan)
    model = RunModel(Recommender(config, graphdef, params, made.items), 30)
    with local_service({"m": model}, tmp_path) as (_, app), TestClient(app) as client:
        answer = client.post("/v1/recommend", json={"histories": [[100]]})
        assert answer.status_code == 500 and answer.json()["type"].endswith("damaged-model")
