"""The command line on a user's own file: what is said about the data, and what the result holds."""

import json

import numpy as np
import polars as pl
from helpers import run_main

from ttt4rec_jax.runs import read


def write_clicks(path):
    """Write clicks of 40 users: user 0 clicks nearly all items, 1 to 8 end with new ones."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(40):
        items = np.arange(36) if user == 0 else rng.choice(30, 4 if user < 9 else 9, replace=False)
        rows += [(user, item, 100 * n + user, "view") for n, item in enumerate(items)]
    rows += [(user, 36 + user % 4, 5000 + user, "view") for user in range(1, 9)]
    # users 40 and 41 come late, 42 has no click before the one that would be its target
    rows += [(user, item, 5100 + item, "view") for user in (40, 41) for item in (1, 2, 3)]
    rows += [(42, 4, 5200, "view")]
    rows += [(user, 50, 10_000, "cart") for user in range(40)]
    path.write_text(
        "user;item;time;event\n" + "".join(";".join(map(str, row)) + "\n" for row in rows)
    )


def test_what_a_run_says_about_a_file(environment, tmp_path):
    write_clicks(tmp_path / "clicks.txt")
    flags = ["--dataset=clicks.txt", "--user_core=1", "--item_core=1", "--model=popularity"]
    flags += ["--split=temporal", "--validation_time=0.5", "--test_time=0.6", "--run_dir=run"]
    flags += ["--where=event = 'view'", "--eval_negatives=20"]
    done = run_main(environment, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for said in (
        f"{36 + 8 * 4 + 31 * 9 + 8 + 7 + 40} rows read, 40 not met by --where; columns user=user, "
        "item=item, time=time",
        "repeated clicks 0.0%",
        "3 users have no training click; of these, 2 have a test target",
        "NDCG@10 of the 2 new users (users without a training click)",
        "test users leave fewer unclicked items than --eval_negatives=20",
        "test targets are items without training clicks",
        "cold targets (items without a training click)",
        "; without 1 users who leave fewer",
    ):
        assert said in done.stdout, said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    parts = result["test_by_item"]
    cold = result["dataset"]["test_cold_targets"]
    assert parts["cold"]["targets"] == cold > 0
    assert parts["warm"]["targets"] + cold == result["dataset"]["test"]
    by_user = result["test_by_user"]
    assert by_user["new"]["targets"] == result["dataset"]["test_new_users"] == 2
    assert by_user["warm"]["targets"] == result["dataset"]["test"] - 2
    assert parts["cold"]["full"]["ndcg@10"] <= parts["warm"]["full"]["ndcg@10"]
    ranks = pl.read_parquet(tmp_path / "run" / "test_ranks.parquet")
    assert ranks.filter(pl.col("sampled_others") == 0)["user"].to_list() == [0]
    assert (ranks["full_others"] > 0).all()
    assert read.read(tmp_path / "run").result == result  # the figures are those of the ranks
