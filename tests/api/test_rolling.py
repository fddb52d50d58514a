"""A run for each window in time, their mean, and resuming them."""

import json
import math
import statistics

import polars as pl
import pytest
from helpers import run_main
from scipy import stats
from test_new_users import clicks_of

import ttt4rec_jax as t4r

OPTIONS = {"user_core": 1, "item_core": 1, "eval_negatives": 9, "validation_time": 0.4}


def test_the_mean_is_that_of_runs_on_each_window(tmp_path):
    clicks = clicks_of()
    root = tmp_path / "runs"
    found = t4r.rolling(
        clicks,
        ["popularity", "itemknn"],
        windows=2,
        data_options=OPTIONS,
        run_dir=root,
        progress=False,
    )
    assert json.loads((root / "windows.json").read_text()) == found
    assert (root / "windows.png").stat().st_size > 1000
    assert sorted(entry["combination"] for entry in found) == ["model=itemknn", "model=popularity"]
    validations = [entry["validation"] for entry in found]
    assert validations == sorted(validations, reverse=True)
    (entry,) = [one for one in found if one["combination"] == "model=popularity"]
    # each window is a run on its data
    alone = []
    for window in (1, 2):
        data = t4r.prepare(clicks, split="rolling", windows=2, window=window, **OPTIONS)
        alone.append(t4r.train(data, "popularity", progress=False).result)
        of_window = entry["windows"][window - 1]
        assert of_window["window"] == window
        for name in ("validation", "test", "test_by_user"):
            assert of_window[name] == alone[-1][name]
        assert of_window["targets"] == len(data.dataset.test.positions)
        assert of_window["new_users"] == alone[-1]["test_by_user"]["new"]["targets"]
        saved = t4r.load(root / f"window={window},model=popularity")
        assert saved.result["test"] == alone[-1]["test"]
        assert saved.result["protocol"]["split"] == f"rolling, window {window} of 2 after 0.4"
    values = [result["test"]["full"]["hit@10"] for result in alone]
    assert entry["mean"]["full"]["hit@10"] == pytest.approx(statistics.fmean(values))
    low, high = stats.t.interval(0.95, 1, statistics.fmean(values), stats.sem(values))
    assert entry["mean"]["full"]["hit@10_ci95"] == pytest.approx((high - low) / 2)
    assert entry["validation"] == pytest.approx(
        statistics.fmean(result["validation"]["sampled"]["ndcg@10"] for result in alone)
    )


def test_the_command_and_resuming_it(environment, tmp_path):
    clicks_of().write_csv(tmp_path / "clicks.csv")
    flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
    flags += ["--dataset=clicks.csv", "--split=rolling", "--windows=2", "--model=popularity"]
    dry = run_main(environment, *flags, "--run_dir=run", "--dry_run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "run").exists()
    assert "window=1" in dry.stdout
    assert "window=2" in dry.stdout
    done = run_main(environment, *flags, "--run_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "windows.json").read_text())
    mean = found[0]["mean"]["full"]
    assert f"{mean['ndcg@10']:.4f} ± {mean['ndcg@10_ci95']:.4f}   ± 95% over 2 windows" in (
        done.stdout
    )
    assert math.isfinite(mean["ndcg@10_ci95"])
    # a window that is missing is trained again, the other is not touched
    ranks = [tmp_path / "run" / f"window={w}" / "test_ranks.parquet" for w in (1, 2)]
    before = [pl.read_parquet(path) for path in ranks]
    untouched = ranks[0].stat().st_mtime_ns
    for path in ranks[1].parent.iterdir():
        if path.is_file():
            path.unlink()
    again = run_main(environment, "--resume", "--run_dir=run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "run" / "windows.json").read_text()) == found
    assert pl.read_parquet(ranks[1]).equals(before[1])
    assert ranks[0].stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("data_options", "message"),
    [
        ({"window": 2}, "data_options: window is set by rolling"),
        ({"validation_time": 1.0}, "--validation_time: found 1.0, expected less"),
    ],
)
def test_a_mistake_is_one_line(data_options, message):
    with pytest.raises(t4r.UserError, match=message):
        t4r.rolling(clicks_of(), "popularity", data_options=data_options)
