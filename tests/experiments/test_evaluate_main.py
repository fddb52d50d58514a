"""The commands candidates.py and evaluate.py as a user of another library meets them."""

import json

import numpy as np
import polars as pl
import pytest
from helpers import assert_one_line, make_finished_run, run_script, try_mistakes

import ttt4rec_jax as t4r
from data_prep.settings import UserError


@pytest.fixture(scope="module")
def cwd(environment, tmp_path_factory):
    """A folder with what candidates.py wrote, and most popular items as lists and as scores."""
    cwd = tmp_path_factory.mktemp("work")
    done = run_script("candidates", environment, "--dataset=synthetic", "--output=from", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "1,500 users, 150,000 candidates, 300 items" in done.stdout
    clicks = pl.read_parquet(cwd / "from" / "clicks.parquet")
    popular = clicks.filter("is_training")["item"].value_counts().sort("count", "item")
    seen = clicks.select("user", "item").unique()
    users = pl.read_parquet(cwd / "from" / "users.parquet")
    ranked = users.join(popular, how="cross").join(seen, on=["user", "item"], how="anti")
    ranked = ranked.rename({"count": "score"}).sort("user", "score", descending=[False, True])
    ranked.group_by("user", maintain_order=True).head(20).write_parquet(cwd / "top.parquet")
    candidates = pl.read_parquet(cwd / "from" / "candidates.parquet")
    scores = candidates.join(popular, on="item", how="left").fill_null(0)
    scores.rename({"count": "score"}).write_csv(cwd / "scores.csv")
    return cwd


@pytest.fixture(scope="module")
def judged(cwd, environment):
    """What evaluate.py printed, and the content of its result.json."""
    flags = ["--dataset=synthetic", "--recommendations=top.parquet", "--scores=scores.csv"]
    more = ["--name=most-popular", "--run_dir=runs/popular", "--top_k=1,10,50"]
    done = run_script("evaluate", environment, *flags, *more, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((cwd / "runs" / "popular" / "result.json").read_text())


def test_candidates_hold_no_target_and_all_that_may_be_known(cwd, environment):
    data = t4r.prepare("synthetic", cache_dir=environment["TTT4REC_CACHE_DIR"])
    dataset = data.dataset
    clicks = pl.read_parquet(cwd / "from" / "clicks.parquet")
    assert len(clicks) == len(dataset.items) - len(dataset.test.positions)
    assert clicks["is_training"].sum() == data.items["clicks"].sum()
    ids = pl.read_parquet(data.folder / "users.parquet")["id"]
    user = int(dataset.test.users[7])
    history = dataset.items[dataset.offsets[user] : dataset.test.positions[7]]
    numbers = dict(zip(data.items["id"], data.items["item"], strict=True))
    mine = clicks.filter(pl.col("user") == ids[user])
    assert [numbers[item] for item in mine["item"]] == history.tolist()
    assert mine["is_training"].to_list()[-2:] == [True, False]
    tables = t4r.candidates(data)
    assert tables.candidates.equals(pl.read_parquet(cwd / "from" / "candidates.parquet"))
    assert (
        json.loads((cwd / "from" / "manifest.json").read_text())["dataset"]["sha256"]
        == (dataset.manifest["sha256"])
    )


def test_the_table_says_what_is_known(judged):
    printed, result = judged
    assert "found      recommendations: 30,000 rows, lists of 20 items" in printed
    for name in ("HR@1", "PREC@10", "MAP@10"):
        (row,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
        metric = name.lower().replace("hr@", "hit@").replace("prec@", "precision@")
        for protocol in ("sampled", "full"):
            assert f"{result['test'][protocol][metric]:.4f}" in row
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows["HR@50"][-1] == rows["MRR"][-1] == "-" and "HR@5" not in rows
    assert result["test"]["sampled"]["hit@50"] > 0


def test_popularity_from_elsewhere_is_popularity_of_ours(judged, cwd, environment):
    """The same scores by another way: the metrics of the package's own evaluation, exactly."""
    _, result = judged
    data = t4r.prepare("synthetic", cache_dir=environment["TTT4REC_CACHE_DIR"])
    clicks = np.concatenate([[0], data.items["clicks"].to_numpy()])
    ours = t4r.evaluate(lambda histories, candidates: clicks[candidates], data)
    assert result["test"]["sampled"].items() >= ours["sampled"].items()
    again = t4r.evaluate(
        data=data,
        recommendations=pl.read_parquet(cwd / "top.parquet"),
        scores=cwd / "scores.csv",
        top_k=(1, 10, 50),
    )
    assert again == result["test"]
    # a list of 20 cuts through ties at its end, so that only what is before them is exact
    assert again["full"]["ndcg@5"] == pytest.approx(ours["full"]["ndcg@5"], abs=2e-3)
    whole = t4r.evaluate(lambda h, c: clicks[c], data, run_dir=cwd / "runs" / "whole", name="ours")
    assert whole == ours
    compared = t4r.compare(cwd / "runs" / "whole", cwd / "runs" / "popular", top_k=(1, 20, 50))
    content = compared.to_dict()
    difference = content["results"]["sampled"]["differences"]["most-popular"]
    assert difference["hit@50"]["difference"] == 0 and set(difference) > {"mrr", "ndcg@1"}
    assert set(content["results"]["full"]["means"]["ours"]) == {
        "hit@1", "ndcg@1", "hit@20", "ndcg@20",
    }  # fmt: skip
    assert any("left out, since lists do not determine" in text for text in content["warnings"])
    assert "most-popular - ours" in str(compared)


def test_compare_refuses_a_judge_on_other_data(judged, cwd):
    make_finished_run(cwd / "runs" / "other", "sasrec")
    with pytest.raises(UserError, match="data differ"):
        t4r.compare(cwd / "runs" / "popular", cwd / "runs" / "other")
    with pytest.raises(UserError, match="from elsewhere, without a model"):
        t4r.load(cwd / "runs" / "popular")


def test_every_target_is_in_the_ranks(judged, cwd):
    _, result = judged
    table = pl.read_parquet(cwd / "runs" / "popular" / "test_ranks.parquet")
    assert table.columns[-1] == "full_listed" and len(table) == result["dataset"]["test"]
    assert (table["full_listed"] == 20).all()


def test_a_finished_result_at_other_k_and_by_segment(judged, cwd, environment, synthetic_run):
    """Of a recommender that was judged, and of a run of main.py."""
    _, result = judged
    flags = ["--run=runs/popular", "--top_k=10,20", "--segments"]
    done = run_script("evaluate", environment, *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line]
    (row,) = [row for row in rows if row[0] == "HR@10"]
    assert row[-3] == f"{result['test']['full']['hit@10']:.4f}"
    assert "NDCG@10 by clicks before the target" in done.stdout
    folder, _ = synthetic_run
    trained = json.loads((folder / "run" / "result.json").read_text())
    done = run_script("evaluate", environment, "--run=run", "--top_k=10,50", cwd=folder)
    assert done.returncode == 0, done.stderr
    figure = f"{trained['test']['full']['ndcg@10']:.4f}"
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("NDCG@10 ")]
    assert figure in row and "HR@50" in done.stdout and "seconds " in done.stdout


MISTAKES = {
    "": "--recommendations, --scores: both are missing",
    "--recommendations=nowhere.csv": "--recommendations: nowhere.csv is not there",
    "--scores=scores.csv --top_k=0": "--top_k: '0' in '0' is not a whole number from 1 to 1,000",
    "--scores=scores.csv --top_k=1,x": "'x' in '1,x'",
    "--scores=scores.csv --name=sasrec": "--name: 'sasrec' is a model of this package",
    "--scores=scores.csv --run_dir=runs": "runs exists and is not an empty folder",
    "--run=runs/popular --scores=scores.csv": "--run: give no --scores with it",
    "--run=runs/popular --dataset=ml1m": "--dataset: give no data with --run",
    "--run=from": "it holds no run",
    "--scores=scores.csv --dataset=beuty": "unknown data set (did you mean 'beauty'?)",
}


@pytest.fixture(scope="module")
def outcomes(judged, cwd):
    return try_mistakes("evaluate", MISTAKES, cwd)


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_clear_line(outcomes, flags):
    assert_one_line(outcomes[flags], MISTAKES[flags])


def test_candidates_are_written_into_a_new_folder(cwd):
    mistakes = {"": "--output: missing", "--output=from": "--output: from exists"}
    outcomes = try_mistakes("candidates", mistakes, cwd)
    for flags, message in mistakes.items():
        assert_one_line(outcomes[flags], message)
