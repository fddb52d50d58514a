"""What cannot be compared is refused in one line that says why."""

import json
import math

import numpy as np
import pytest
from helpers import make_finished_run

from data_prep import store
from data_prep.prepare import prepare
from data_prep.settings import DataConfig, UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.evaluation import compare
from ttt4rec_jax.runs.folder import RunFolder


def other_data(result, _):
    result["dataset"]["sha256"] = "cd" * 32
    result["config"]["data"]["eval_negatives"] = 999


def other_protocol(result, _):
    result["protocol"]["sampled"] = "1:99, by popularity"


def other_users(_, columns):
    columns["user"] = [user + 1 for user in columns["user"]]


def other_candidates(_, columns):
    columns["full_others"][7] += 1


def not_a_number(result, _):
    result["test"]["full"]["mrr"] = math.nan


def other_ranks(_, columns):
    columns["sampled_greater"][0] = 99 - columns["sampled_greater"][0]


def null_rank(_, columns):
    columns["full_greater"][3] = None


def fractional_rank(_, columns):
    columns["full_greater"] = [math.nan, *columns["full_greater"][1:]]


def impossible_rank(_, columns):
    columns["full_greater"][3] = 100


def user_twice(_, columns):
    columns["user"][1] = columns["user"][0]


def no_ranks(_, columns):
    for name in [name for name in columns if name != "user"]:
        del columns[name]


def unknown_setting(result, _):
    result["config"]["model"]["flux"] = 3


def impossible_setting(result, _):
    result["config"]["model"]["dim"] = -1


def no_protocol(result, _):
    del result["protocol"]


REFUSED = {
    other_data: [
        "--eval_negatives=99 against 999",
        "abababababababab against cdcdcdcdcdcdcdcd",
        "good",
        "bad",
    ],
    other_protocol: ["'sampled'", "1:99, uniform", "1:99, by popularity", "good", "bad"],
    other_users: ["300 against 300", "user 0 is in", "good", "bad"],
    other_candidates: ["full candidates of user 7", "99 against 100", "good", "bad"],
    not_a_number: ["bad/result.json", "full/mrr is nan"],
    other_ranks: ["bad/result.json", "test sampled/", "belong to different runs"],
    null_rank: ["bad/test_ranks.parquet", "not a whole number"],
    fractional_rank: ["bad/test_ranks.parquet", "full_greater"],
    impossible_rank: ["bad/test_ranks.parquet", "impossible ranks"],
    user_twice: ["bad/test_ranks.parquet", "300 rows of 299 users"],
    no_ranks: ["bad/test_ranks.parquet", "columns user, expected"],
    unknown_setting: ["bad/result.json", "flux"],
    impossible_setting: ["bad/result.json", "--dim"],
    no_protocol: ["bad/result.json", "protocol"],
}


def refusal(paths, protocol="") -> str:
    with pytest.raises(UserError) as raised:
        compare.compare(paths, protocol)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_cannot_be_compared_is_refused(tmp_path, change):
    message = refusal(
        [
            make_finished_run(tmp_path / "good"),
            make_finished_run(tmp_path / "bad", "sasrec", change=change),
        ]
    )
    for text in REFUSED[change]:
        assert text in message


def test_folders_that_hold_no_finished_run_are_refused(tmp_path):
    good = make_finished_run(tmp_path / "good")
    assert "nowhere: not there" in refusal([good, tmp_path / "nowhere"])
    assert "not a folder" in refusal([good, good / "config.json"])
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refusal([good, tmp_path / "empty"])
    RunFolder(tmp_path / "begun").create(Config())
    assert "has not finished" in refusal([good, tmp_path / "begun"])
    (tmp_path / "empty" / "sweep.json").write_text("{}")
    assert "no finished combination" in refusal([tmp_path / "empty"])


def test_damaged_files_are_refused(tmp_path):
    good = make_finished_run(tmp_path / "good")
    bad = make_finished_run(tmp_path / "bad", "sasrec")
    whole = (bad / "test_ranks.parquet").read_bytes()
    for content in (b"", whole[:-100], b"PAR1" + whole[200:]):
        (bad / "test_ranks.parquet").write_bytes(content)
        assert "bad/test_ranks.parquet: cannot be read" in refusal([good, bad])
    (bad / "test_ranks.parquet").unlink()
    assert "bad/test_ranks.parquet: not there" in refusal([good, bad])
    for text in ("{", "[]", "3", '{"config": 3}'):
        (bad / "result.json").write_text(text)
        assert "bad/result.json: not the result of a run of this version" in refusal([good, bad])


def test_fewer_than_two_systems_are_refused(tmp_path):
    runs = [make_finished_run(tmp_path / "a"), make_finished_run(tmp_path / "b", seed=1)]
    assert "only one run" in refusal(runs[:1])
    assert "only one run" in refusal([runs[0], runs[0]])
    assert "2 seeds of one configuration (ttt4rec)" in refusal(runs)
    copy = make_finished_run(tmp_path / "copy")
    message = refusal([*runs, copy, make_finished_run(tmp_path / "c", "sasrec")])
    assert "/a and " in message and "/copy have the same settings and seed 0" in message


def test_a_protocol_that_a_run_lacks(tmp_path):
    def sampled_only(result, columns):
        for name in ("full_greater", "full_ties", "full_others"):
            del columns[name]

    def full_only(result, columns):
        for name in ("sampled_greater", "sampled_ties", "sampled_others"):
            del columns[name]

    whole = make_finished_run(tmp_path / "whole")
    part = make_finished_run(tmp_path / "part", "sasrec", change=sampled_only)
    assert list(compare.compare([whole, part])["results"]) == ["sampled"]
    assert (
        "--protocol=full" in (message := refusal([whole, part], "full"))
        and "/part has sampled only" in message
    )
    rest = make_finished_run(tmp_path / "rest", "gru4rec", change=full_only)
    assert "no protocol is common" in refusal([part, rest])


def test_the_datas_hash_covers_the_evaluation_negatives(tmp_path):
    """Why runs of equal hashes are of one evaluation set."""
    folder = prepare(DataConfig(dataset="synthetic"), cache_dir=tmp_path)
    paths = [
        path for path in folder.glob("*.npy") if path.stem not in ("is_first", "gaps", "gap_starts")
    ]
    arrays = {path.stem: np.load(path) for path in paths}
    assert (
        store.content_digest(arrays) == json.loads((folder / "manifest.json").read_text())["sha256"]
    )
    for name in ("test_negatives", "test_targets", "items"):
        changed = arrays[name].copy()
        changed.flat[5] += 1
        assert store.content_digest(arrays | {name: changed}) != store.content_digest(arrays)
