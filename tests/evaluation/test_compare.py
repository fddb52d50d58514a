"""Finished runs compared: figures, names of systems, several comparisons, the table, warnings."""

import itertools
import json

import numpy as np
import pytest
from helpers import make_finished_run

from ttt4rec_jax import metrics
from ttt4rec_jax.config import Config
from ttt4rec_jax.evaluation import compare
from ttt4rec_jax.evaluation.compare_table import table
from ttt4rec_jax.runs.folder import RunFolder


@pytest.fixture(scope="module")
def six_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    sas = [
        make_finished_run(root / f"sas-{seed}", "sasrec", seed, dropout=0.5) for seed in range(3)
    ]
    return sas + [
        make_finished_run(root / f"ttt-{seed}", "ttt4rec", seed, shift=2.5, dropout=0.2)
        for seed in range(3)
    ]


def test_figures_are_those_of_the_ranks(six_runs):
    got = compare.compare(six_runs)
    assert got["reference"] == "sasrec" and list(got["systems"]) == ["sasrec", "ttt4rec"]
    assert [system["seeds"] for system in got["systems"].values()] == [[0, 1, 2]] * 2
    assert got["systems"]["ttt4rec"]["interval_over"] == "users and seeds" and got["warnings"] == []
    for protocol, metric in itertools.product(("sampled", "full"), metrics.COMPARED_METRICS):
        results = [
            json.loads((path / "result.json").read_text())["test"][protocol][metric]
            for path in six_runs
        ]
        found = got["results"][protocol]
        one = got["results"][protocol]["differences"]["ttt4rec"][metric]
        assert found["means"]["sasrec"][metric] == pytest.approx(np.mean(results[:3]))
        assert found["std_over_seeds"]["ttt4rec"][metric] == pytest.approx(
            np.std(results[3:], ddof=1)
        )
        assert one["difference"] == pytest.approx(np.mean(results[3:]) - np.mean(results[:3]))
        assert one["relative_percent"] == pytest.approx(
            100 * one["difference"] / np.mean(results[:3])
        )
        assert one["low"] < one["difference"] < one["high"] and one["p_holm"] == one["p"]
    assert got["results"]["full"]["differences"]["ttt4rec"]["hit@10"]["error_seeds"] > 0


def test_order_of_runs_and_rows_does_not_matter(six_runs, tmp_path):
    def backwards(_, columns):
        for column in columns.values():
            column.reverse()

    again = make_finished_run(tmp_path / "sas-1", "sasrec", 1, dropout=0.5, change=backwards)
    shuffled = [six_runs[2], six_runs[4], again, six_runs[5], six_runs[0], six_runs[3]]
    got, expected = (
        compare.compare(runs)["results"]["full"]["differences"]["ttt4rec"]
        for runs in (shuffled, six_runs)
    )
    for metric in metrics.COMPARED_METRICS:
        assert got[metric] == pytest.approx(expected[metric])


def test_systems_are_named_by_what_differs(tmp_path):
    runs = [
        make_finished_run(tmp_path / f"{dim}-{rate}", dim=dim, learning_rate=rate)
        for dim in (16, 32)
        for rate in (0.01, 0.1)
    ]
    names = list(compare.compare(runs)["systems"])
    assert names == [
        "dim=16,learning_rate=0.01",
        "dim=16,learning_rate=0.1",
        "dim=32,learning_rate=0.01",
        "dim=32,learning_rate=0.1",
    ]
    runs.append(make_finished_run(tmp_path / "popularity", "popularity", shift=1))
    names = list(compare.compare([runs[4], *runs[:2]])["systems"])
    assert names == ["popularity", "ttt4rec,learning_rate=0.01", "ttt4rec,learning_rate=0.1"]


def test_several_comparisons_have_holms_p(six_runs, tmp_path):
    third = [
        make_finished_run(tmp_path / f"gru-{seed}", "gru4rec", seed, shift=2.1) for seed in range(3)
    ]
    got = compare.compare(six_runs + third)
    for metric in metrics.COMPARED_METRICS:
        found = [
            got["results"]["full"]["differences"][name][metric] for name in ("ttt4rec", "gru4rec")
        ]
        small, large = sorted(one["p"] for one in found)
        assert sorted(one["p_holm"] for one in found) == pytest.approx(
            [min(2 * small, 1), min(max(2 * small, large), 1)]
        )
    assert "Holm's method for the 2 comparisons" in table(got)


def test_one_seed_speaks_of_users_alone_and_says_so(six_runs, tmp_path):
    got = compare.compare(six_runs[:4])  # three of sasrec, one of ttt4rec
    assert got["systems"]["ttt4rec"]["interval_over"] == "users alone"
    assert got["results"]["full"]["differences"]["ttt4rec"]["mrr"]["error_seeds"] == 0
    assert "over users alone: ttt4rec has only one seed" in table(got)
    # what is not trained has no other training that could have ended otherwise
    floor = make_finished_run(tmp_path / "floor", "popularity", shift=1)
    got = compare.compare([floor, *six_runs[3:]])
    assert got["systems"]["ttt4rec"]["interval_over"] == "users and seeds"
    assert got["results"]["full"]["differences"]["ttt4rec"]["mrr"]["error_seeds"] > 0


def test_table(six_runs):
    got = compare.compare(six_runs)
    lines = table(got).splitlines()
    assert "sha256 abababababababab" in lines[0] and "300 users" in lines[1]
    assert any(
        "sasrec" in line
        and "seeds 0, 1, 2" in line
        and "dropout=0.5" in line
        and "the reference" in line
        for line in lines
    )
    for protocol in ("sampled", "full"):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{protocol}: "))
        head, sas, ttt, _, title, columns, *rows = lines[start + 1 : start + 12]
        assert head.split()[-5:] == ["HR@5", "NDCG@5", "HR@10", "NDCG@10", "MRR"]
        assert sas.count("*") == 0 and ttt.count("*") == 5, "ttt4rec is better by construction"
        ends = [head.index(name) + len(name) for name in head.split()[-5:]]
        assert all(
            line[end - 5].isdigit() or line[end - 5] == "." for line in (sas, ttt) for end in ends
        ), "aligned"
        assert title == "ttt4rec - sasrec, over users and seeds"
        assert len({len(row) for row in (columns, *rows)}) == 1
        for metric, row in zip(metrics.COMPARED_METRICS, rows, strict=True):
            one = got["results"][protocol]["differences"]["ttt4rec"][metric]
            assert (
                f"{one['difference']:+.4f}" in row
                and f"[{one['low']:+.4f}, {one['high']:+.4f}]" in row
            )
            assert f"{one['relative_percent']:+.1f}%" in row


def test_one_protocol(six_runs):
    got = compare.compare(six_runs, "full")
    assert list(got["results"]) == ["full"] and "sampled" not in got["protocol"]
    assert "sampled: " not in table(got)


def test_a_sweep_is_its_finished_combinations(tmp_path):
    root = tmp_path / "sweep"
    for dim, seed in itertools.product((16, 32), (0, 1)):
        make_finished_run(root / f"dim={dim},seed={seed}", dim=dim, seed=seed, shift=2 + dim / 64)
    failed = RunFolder(root / "dim=64,seed=0")
    failed.create(Config())
    failed.error.write_text('{"error": "loss is nan"}')
    (root / "sweep.json").write_text("{}")
    got = compare.compare([root])
    assert {name: system["seeds"] for name, system in got["systems"].items()} == {
        "dim=16": [0, 1],
        "dim=32": [0, 1],
    }
    assert got["warnings"] == [f"{failed.path} has no result and is left out (failed: loss is nan)"]
    # a combination named before its sweep counts once, and is the reference
    assert compare.compare([root / "dim=32,seed=1", root])["reference"] == "dim=32"


def test_warnings_of_unlike_training(tmp_path):
    runs = [
        make_finished_run(tmp_path / "a", epochs=5),
        make_finished_run(tmp_path / "b", "sasrec", select_by="full/ndcg@10"),
    ]
    got = compare.compare(runs)["warnings"]
    assert len(got) == 2
    assert "select_by=sampled/ndcg@10" in got[0] and "select_by=full/ndcg@10" in got[0]
    assert "epochs=5" in got[1] and "epochs=10" in got[1]
    assert (
        sum(line.startswith("warning") for line in table(compare.compare(runs)).splitlines()) == 2
    )
    # what is not trained has no budget
    assert (
        compare.compare([runs[0], make_finished_run(tmp_path / "c", "popularity")])["warnings"]
        == []
    )
