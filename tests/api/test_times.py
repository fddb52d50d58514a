"""--time from prepared data to a result: what it says, and what it may be compared with."""

import json

import polars as pl
import pytest
from flax import nnx
from helpers import few_users

import ttt4rec_jax as t4r
from data_prep.settings import UserError
from ttt4rec_jax.runs.items import history_of
from ttt4rec_jax.training.ttt_stats import TttStats

SMALL = {"epochs": 1, "dim": 8, "mini_batch_size": 2, "max_len": 4, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder, with few users of the synthetic data and caches in it."""
    folder = tmp_path_factory.mktemp("times")
    with few_users(folder, 200):
        yield folder


def test_a_run_told_the_time_of_requests_says_so_and_is_not_compared_with_others(folder):
    data = t4r.prepare("synthetic")
    told = t4r.train(data, time="request", ttt_stats=True, run_dir=folder / "told", **SMALL)
    gaps = t4r.train(data, time="gaps", run_dir=folder / "gaps", **SMALL)
    plain = t4r.train(data, run_dir=folder / "plain", **SMALL)
    assert told.result["protocol"]["request"] == "at a time that the model is told"
    assert "request" not in gaps.result["protocol"]
    with pytest.raises(UserError, match="cannot be compared: protocol 'request'"):
        t4r.compare([told, gaps])
    t4r.compare([gaps, plain])
    # statistics of the layers are those of histories with their gaps
    (epoch,) = (folder / "told" / "metrics.jsonl").read_text().splitlines()
    graphdef, params = nnx.split(told.model(), nnx.Param)
    stats = TttStats(graphdef, data.dataset, SMALL["max_len"], "request")
    (expected,) = stats(nnx.to_pure_dict(params))
    assert json.loads(epoch)["ttt_stats"][0]["rate"] == pytest.approx(expected["rate"], rel=1e-4)
    # the history of a user has the times of the data
    (user,) = pl.read_parquet(data.folder / "users.parquet")["id"].head(1).to_list()
    items, times = history_of(data.folder, str(user))
    assert times == data.dataset.timestamps[: len(items)].tolist()
    # evaluating the run again reads the same times
    again = t4r.evaluate(told, data)
    assert again["full"]["ndcg@10"] == pytest.approx(told.test["full"]["ndcg@10"])


def test_data_without_times_are_refused_before_anything_is_trained(folder):
    rows = [(user, item) for user in range(8) for item in range(user, user + 6)]
    table = pl.DataFrame(rows, ("user", "item"), orient="row")
    data = t4r.prepare(table, time_col="none", user_core=0, item_core=0, eval_negatives=2)
    with pytest.raises(UserError, match=r"--time=gaps: the clicks of .* have no times"):
        t4r.train(data, time="gaps", run_dir=folder / "none", **SMALL)
    left = {path.name for path in (folder / "none").iterdir()}
    assert left <= {".lock"}, "nothing is left that another run would refuse"
