"""Exports of models that read times: the lists of Recommender and of its sessions."""

import datetime
import json
import shutil

import numpy as np
import pytest
from helpers import (
    V,
    assert_same_lists,
    make_recommender,
    serving_config,
    split_model,
    timed_dataset,
)
from helpers.service import local_service
from starlette.testclient import TestClient

from ttt4rec_jax.service import models
from ttt4rec_jax.service.models import RunModel
from ttt4rec_jax.serving import load_export
from ttt4rec_jax.serving.export import export_model

START = 1_700_000_000
IDS = [300, 700, 300, 1200, 500]
TIMES = [START, START + 5, START + 5, START + 86_400, START + 86_460.5]
AT = START + 10**6


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function from a model and --time to (Recommender, its export, loaded)."""
    dataset = timed_dataset()
    folder = tmp_path_factory.mktemp("exports")
    made = {}

    def make(model, time):
        if (model, time) not in made:
            options = {"mini_batch_size": 4} if model == "ttt4rec" else {}
            recommender = make_recommender(serving_config(model, **options, time=time), dataset)
            graphdef, _ = split_model(recommender.config, dataset)
            parts = recommender.config, graphdef, recommender.params, recommender.items
            path = folder / f"{model}-{time}"
            manifest = export_model(*parts, path, V)
            assert manifest["format_version"] == 2
            made[model, time] = recommender, load_export.load_export(path)
        return made[model, time]

    return make


def request_time(time, at=AT):
    return {"at": at} if time == "request" else {}


@pytest.mark.parametrize(
    ("model", "time"), [("ttt4rec", "gaps"), ("ttt4rec", "request"), ("sasrec", "request")]
)
def test_lists_and_candidates_are_recommenders(exported, model, time):
    recommender, export = exported(model, time)
    histories = [IDS, [], IDS[:2]]
    times = [TIMES, [], TIMES[:2]]
    moments = request_time(time, [AT, AT, datetime.datetime.fromtimestamp(AT, datetime.UTC)])
    found = export.recommend(histories, k=V, times=times, **moments)
    expected = recommender.recommend(histories, k=V, times=times, **moments)
    for best, twin in zip(found, expected, strict=True):
        assert (best.ids, best.source) == (twin.ids, twin.source)
        np.testing.assert_array_equal(best.scores, twin.scores)
    candidates = [found[0].ids[:3]]
    (scores,) = export.score([IDS], candidates, times=[TIMES], **request_time(time))
    np.testing.assert_allclose(scores, found[0].scores[:3], rtol=1e-5)
    later = [[*TIMES[:4], TIMES[4] + 10**5]]
    (other,) = export.recommend([IDS], k=V, times=later, **request_time(time))
    assert other.scores.tolist() != found[0].scores.tolist()


@pytest.mark.parametrize("time", ["gaps", "request"])
def test_a_session_reads_times_as_recommenders_does(exported, time):
    recommender, export = exported("ttt4rec", time)
    session = export.open_session()
    twin = recommender.open_session()
    assert session.recommend(k=3, **request_time(time)).source == "popularity"
    for id, moment in zip(IDS, TIMES, strict=True):
        session.observe(id, time=moment)
        twin.observe(id, time=moment)
        np.testing.assert_array_equal(session.state, twin.state)
        for at in (AT, AT + 10**6):  # a request leaves a session as it is
            best = session.recommend(V, **request_time(time, at))
            assert_same_lists(best, twin.recommend(V, **request_time(time, at)))
    before = (session.state, session.clicks, session.clock)
    with pytest.raises(ValueError, match="times: missing, but the model reads"):
        session.observe(100)
    with pytest.raises(ValueError, match="before the previous click"):
        session.observe(100, time=START)
    if time == "request":
        with pytest.raises(ValueError, match="at: missing, but the model reads"):
            session.recommend()
    assert (session.state, session.clicks, session.clock) == before


def test_the_service_reads_an_exports_times_as_those_of_its_run(exported, tmp_path):
    recommender, export = exported("ttt4rec", "request")
    both = {"run": RunModel(recommender, V), "export": models.load(str(export.folder), (1,), V)}
    with local_service(both, tmp_path) as (_, app), TestClient(app) as client:
        id = client.post("/v1/sessions").json()["id"]
        for start, stop in ((0, 1), (1, 5)):
            body = {"items": IDS[start:stop], "times": TIMES[start:stop]}
            client.post(f"/v1/sessions/{id}/clicks", json=body)
            a, b = (
                client.get(
                    f"/v1/sessions/{id}/recommendations",
                    params={"k": V, "at": AT, "model": name},
                ).json()["items"]
                for name in both
            )
            assert len(a) == V - len(set(IDS[:stop]))
            assert [x["id"] for x in a] == [x["id"] for x in b]
            scores = ([x["score"] for x in items] for items in (a, b))
            np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


def test_wrong_times_are_told(exported, tmp_path):
    _, gaps = exported("ttt4rec", "gaps")
    with pytest.raises(ValueError, match="times: missing, but the model reads"):
        gaps.recommend([[100]])
    with pytest.raises(ValueError, match=r"times: found \[1\] for \[2\] clicks"):
        gaps.recommend([[100, 200]], times=[[1]])
    with pytest.raises(ValueError, match="at: found a time, but the model does not read"):
        gaps.recommend([[100]], times=[[1]], at=2)
    shutil.copytree(gaps.folder, tmp_path / "model")
    manifest = {key: x for key, x in gaps.manifest.items() if key != "gap_seconds"}
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(load_export.ExportError, match=r"model: damaged .'gap_seconds'.; copy it"):
        load_export.load_export(tmp_path / "model")
