"""--time: evaluation, histories and sessions agree; a model uses the gaps; wrong times are told."""

import dataclasses
import datetime

import numpy as np
import pytest
from helpers import (
    L,
    V,
    assert_same_lists,
    fit_run,
    make_dataset,
    make_recommender,
    serving_config,
    split_model,
    timed_dataset,
)

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, EvalConfig, ModelConfig, TrainConfig
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.evaluation.evaluator import Evaluator

HOUR = 3600
KINDS = {
    "ttt4rec": {"mini_batch_size": 4, "num_blocks": 2, "score": "cosine"},
    "sasrec": {},
    "gru4rec": {},
}


@pytest.fixture(scope="module")
def dataset():
    return timed_dataset()


@pytest.fixture(scope="module")
def recommender_of(dataset):
    made = {}

    def make(model, time):
        if (model, time) not in made:
            config = serving_config(model, **KINDS[model], time=time)
            made[model, time] = make_recommender(config, dataset)
        return made[model, time]

    return make


def histories_of(dataset):
    """The ids, times, request's time and target of each test history."""
    for position, user in zip(dataset.test.positions, dataset.test.users, strict=True):
        part = slice(dataset.offsets[user], position)
        ids = (100 * dataset.items[part]).tolist()
        times = dataset.timestamps[part].tolist()
        yield ids, times, int(dataset.timestamps[position]), int(dataset.items[position])


@pytest.mark.parametrize("time", ["gaps", "request"])
@pytest.mark.parametrize("model", KINDS)
def test_histories_with_times_are_ranked_as_in_the_evaluation(dataset, recommender_of, model, time):
    recommender = recommender_of(model, time)
    graphdef, _ = split_model(recommender.config, dataset)
    ranks = []
    for clicks in (device_clicks(dataset, time=time), None):  # on the device and on the host
        evaluate = Evaluator(graphdef, recommender.params, dataset, clicks, L)
        ranks.append(evaluate(recommender.params, "test")["full"])
    assert all((a == b).all() for a, b in zip(*ranks, strict=True))
    ids, times, at, targets = zip(*histories_of(dataset), strict=True)
    at = list(at) if time == "request" else None
    lists = recommender.recommend(ids, V, times=times, at=at, exclude_seen=False)
    greater = []
    for history, target, best in zip(ids, targets, lists, strict=True):
        score_of = dict(zip(best.ids, best.scores, strict=True))
        others = [s for id, s in score_of.items() if id not in {*history, 100 * target}]
        greater.append(sum(score > score_of[100 * target] + 1e-6 for score in others))
    assert np.mean(np.array(greater) == ranks[0].greater) > 0.9  # ties by rounding
    if time == "request":
        at = [x + 999 * HOUR for x in at]
        later = recommender.recommend(ids, V, times=times, at=at, exclude_seen=False)
        assert any(a.ids != b.ids for a, b in zip(later, lists, strict=True))


@pytest.mark.parametrize("time", ["gaps", "request"])
@pytest.mark.parametrize("model", ["ttt4rec", "sasrec"])
def test_a_session_with_times_equals_the_history(dataset, recommender_of, model, time):
    recommender = recommender_of(model, time)
    long = max(histories_of(dataset), key=lambda history: len(history[0]))
    ids, times, at, _ = (x if isinstance(x, int) else x[-L:] for x in long)
    given = {"at": at} if time == "request" else {}

    def whole(count):
        (best,) = recommender.recommend(
            [ids[:count]], V, times=[times[:count]], exclude_seen=False, **given
        )
        return best

    session = recommender.open_session()
    for count, (id, moment) in enumerate(zip(ids, times, strict=True), 1):
        time_given = datetime.datetime.fromtimestamp(moment, datetime.UTC)
        twin = recommender.session_from_bytes(session.to_bytes())
        session.observe(id, time=time_given)
        best = session.recommend(V, exclude_seen=False, **given)
        assert_same_lists(best, whole(count))
        at_once = twin.observe_and_recommend(id, V, time=time_given, exclude_seen=False, **given)
        assert_same_lists(at_once, best)
        session = recommender.session_from_bytes(session.to_bytes())
        np.testing.assert_array_equal(session.seen, twin.seen)
        assert session.clock == twin.clock
    # some clicks at once, and with the list in the same call
    first = recommender.open_session(ids[:2], times=times[:2])
    second = recommender.open_session()
    lists = recommender.observe_many(
        [first, second],
        [[*ids[2:], 7], ids],
        V,
        times=[[*times[2:], at], times],
        unknown="skip",
        exclude_seen=False,
        **given,
    )
    for best in lists:
        assert_same_lists(best, whole(len(ids)))
    assert (first.clicks, first.clock.last) == (len(ids), times[-1])
    assert recommender.open_session().recommend(3, **given).source == "popularity"


def test_wrong_times_are_told(recommender_of):
    gaps = recommender_of("ttt4rec", "gaps")
    request = recommender_of("ttt4rec", "request")
    with pytest.raises(UserError, match="times: missing, but the model reads"):
        gaps.recommend([[100]])
    with pytest.raises(UserError, match=r"times: found \[1\] for \[2\] clicks"):
        gaps.recommend([[100, 200]], times=[[1]])
    with pytest.raises(UserError, match="times: 5 s before the previous click"):
        gaps.recommend([[100, 200]], times=[[10, 5]])
    with pytest.raises(UserError, match="times: found None; expected seconds"):
        gaps.recommend([[100]], times=[None])
    with pytest.raises(UserError, match="times: found nan; expected seconds"):
        gaps.recommend([[100]], times=[[float("nan")]])
    with pytest.raises(UserError, match="at: found a time, but the model does not read"):
        gaps.recommend([[100]], times=[[1]], at=2)
    with pytest.raises(UserError, match="at: missing"):
        request.recommend([[100]], times=[[1]])
    session = request.open_session([100], times=[10])
    with pytest.raises(UserError, match="at: 1 s before the previous click"):
        session.recommend(at=9)
    with pytest.raises(UserError, match="times: 4 s before"):
        session.observe(100, time=6)
    assert session.clicks == 1 and session.clock.last == 10


def test_what_reads_no_times_is_refused(dataset):
    with pytest.raises(UserError, match="--sparse_embeddings: a model with --time=gaps"):
        Config(model=ModelConfig(time="gaps"), train=TrainConfig(sparse_embeddings=True))
    with pytest.raises(UserError, match="--time: an option of --model=ttt4rec or --model=sasrec"):
        ModelConfig(model="din", time="gaps")
    plain = make_recommender(serving_config("sasrec"), dataset)
    with pytest.raises(UserError, match="times: found some, but the model reads none"):
        plain.recommend([[100]], times=[[1]])


def test_a_model_uses_the_time_of_the_request(tmp_path):
    """The next item follows from the last one and the pause before it."""
    rng = np.random.default_rng(3)
    items = []
    times = []
    for _ in range(120):
        is_long = rng.random(rng.integers(6, 12)) < 0.5
        steps = np.cumsum(np.where(is_long, 7, 1)) + rng.integers(24)
        items.append((steps % 24 + 1).tolist())
        times.append(np.cumsum(np.where(is_long, 30 * HOUR, 10)))
    data = make_dataset(items, 24, num_negatives=9)
    manifest = data.manifest | {"time_unit": "seconds"}
    data = dataclasses.replace(data, timestamps=np.concatenate(times), manifest=manifest)

    def share_first(time):
        config = Config(
            model=ModelConfig(dim=16, max_len=4, mini_batch_size=2, time=time),
            train=TrainConfig(learning_rate=0.01, epochs=40, batch_size=32, length_buckets=1),
            eval=EvalConfig(select_by="full/ndcg@5"),
        )
        ranks = fit_run(config, data, tmp_path / time).test_ranks["full"]
        return (ranks.greater == 0).mean()

    assert share_first("request") > 0.8
    assert share_first("gaps") < 0.7, "one of two items follows, by a pause that it is not told"
