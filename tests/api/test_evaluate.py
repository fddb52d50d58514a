"""Anything that scores is evaluated by the definitions of the training's own evaluation."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ttt4rec_jax as t4r
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.evaluation.evaluator import Evaluator
from ttt4rec_jax.evaluation.scorer import rank_by_scorer


def test_a_run_its_module_and_its_scores_as_a_function_have_the_same_metrics(data, run):
    model = run.model()

    def scores(histories, candidates):
        length = (histories > 0).sum(1)
        user = model.encode(jnp.asarray(histories), jnp.asarray(length))[:, 0]
        return jnp.einsum("bd,bcd->bc", user, model.item_vectors(jnp.asarray(candidates)))

    assert t4r.evaluate(run, data) == run.test
    assert t4r.evaluate(model, data, max_len=5) == run.test
    by_function = t4r.evaluate(scores, data, max_len=5, batch_size=500)
    for protocol, metrics in run.test.items():
        assert by_function[protocol] == pytest.approx(metrics, abs=2e-5)  # products are rounded
    whole = t4r.evaluate(run, data, segments=True, top_k=(5, 10, 20, 300))
    assert whole.more["beyond_accuracy"].items() >= run.result["beyond_accuracy"].items()
    assert whole.more["beyond_accuracy"]["coverage@300"] == 1  # the catalogue has 300 items
    assert sum(s["targets"] for s in whole.more["segments"]["item"].values()) == 1500
    validation = t4r.evaluate(run, data, split="validation")
    assert validation == run.validation


def test_ranks_are_those_of_the_evaluator(random_dataset):
    """Exact scores with many ties; histories with repeats, targets that were clicked before."""

    class Ids(nnx.Module):
        def score(self, history_BxL, length_B, candidates, key=None):
            c = jnp.broadcast_to(candidates, (len(length_B), candidates.shape[-1]))
            return ((c * 7 + history_BxL.sum(1, keepdims=True)) % 5).astype(jnp.float32)

    def scores(histories, candidates):
        return (candidates * 7 + histories.sum(1, keepdims=True)) % 5

    graphdef, _ = nnx.split(Ids())
    evaluator = Evaluator(graphdef, {}, random_dataset, device_clicks(random_dataset), 4)
    ranks = evaluator({}, "test")
    by_function = rank_by_scorer(scores, random_dataset, "test", 4, 7)
    for protocol, of_protocol in ranks.items():
        for name, values in of_protocol._asdict().items():
            assert np.array_equal(getattr(by_function[protocol], name), values), (protocol, name)


@pytest.mark.parametrize(
    ("scorer", "options", "message"),
    [
        (lambda h, c: c[:, 0], {}, "returned scores of shape (256,), expected (256, 100)"),
        (lambda h, c: np.where(c == 3, np.nan, 0.0), {}, "returned NaN for a candidate"),
        (3, {}, "scorer: 3 is not a Run, a Flax module or a function"),
        (nnx.Linear, {"split": "train"}, "split: 'train' is not one of test, validation"),
        (lambda h, c: c, {"max_len": 0}, "max_len, batch_size: found 0, 256"),
    ],
)
def test_a_mistake_is_one_line(data, scorer, options, message):
    with pytest.raises(t4r.UserError) as raised:
        t4r.evaluate(scorer, data, **options)
    assert message in str(raised.value)


def test_a_run_is_not_evaluated_on_other_data(run):
    with pytest.raises(t4r.UserError, match="but the run was trained on"):
        t4r.evaluate(run, t4r.prepare("synthetic", eval_negatives=9))


def test_a_module_without_the_interface_is_refused(data):
    with pytest.raises(t4r.UserError, match="Linear has neither encode and item_vectors nor score"):
        t4r.evaluate(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), data)


def test_settings_are_frozen(run):
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.config.model.dim = 3


def test_new_users_are_told_apart(environment):
    options = {"split": "user_holdout", "holdout_users": 0.2}
    data = t4r.prepare("synthetic", cache_dir=environment["TTT4REC_CACHE_DIR"], **options)
    run = t4r.train(data, "popularity", progress=False, segments=True)
    parts = run.result["test_by_user"]
    assert parts == run.result["segments"]["user"]
    assert (parts["warm"]["targets"], parts["new"]["targets"]) == (1200, 150)
    share = [parts[name]["targets"] * parts[name]["full"]["ndcg@10"] / 1350 for name in parts]
    assert sum(share) == pytest.approx(run.test["full"]["ndcg@10"])
    assert "150 new users (users without a training click)" in str(run)
    assert data.items["clicks"].sum() == (data.dataset.train_ends - data.dataset.offsets[:-1]).sum()


def test_a_run_records_the_numbers_k_that_are_asked_for(data):
    run = t4r.train(data, "popularity", progress=False, top_k="1,50")
    assert {"hit@1", "map@50", "ndcg@10"} <= run.test["full"].keys()
    assert {"coverage@1", "gini@50", "novelty@50_ci95"} <= run.result["beyond_accuracy"].keys()
    assert "coverage@10" not in run.result["beyond_accuracy"]
    assert "NDCG@50" in str(run) and "NDCG@10 " not in str(run)
    most = data.items["clicks"].max()
    assert run.result["beyond_accuracy"]["popularity@1"] <= most
    with pytest.raises(t4r.UserError, match="--top_k: 'x' in 'x' is not a whole number"):
        t4r.train(data, "popularity", progress=False, top_k="x")
    alone = t4r.train(data, "popularity", progress=False, full_catalogue=False)
    assert "beyond_accuracy" not in alone.result
