"""The paired test against tables, hand calculation, permutation and simulation; its refusals."""

import itertools
import json
import math

import numpy as np
import pytest
from helpers import make_finished_run, simulated_ranks

from data_prep import store
from data_prep.prepare import prepare
from data_prep.settings import DataConfig, UserError
from ttt4rec_jax import metrics
from ttt4rec_jax.config import Config
from ttt4rec_jax.evaluation import compare, paired_test
from ttt4rec_jax.evaluation.compare_table import table
from ttt4rec_jax.metrics import per_target
from ttt4rec_jax.runs.folder import RunFolder

# Student's t


@pytest.mark.parametrize(
    ("df", "published"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (5, 2.57058),
        (10, 2.22814),
        (30, 2.04227),
        (120, 1.97993),
        (1e7, 1.95996),
    ],
)
def test_t_quantiles_are_the_published_ones(df, published):
    assert paired_test.t_quantile(df) == pytest.approx(published, rel=3e-6)
    assert paired_test.two_sided_p(-published, df) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("t", [1e-6, 0.3, 1.0, 2.5, 40.0, 1e6])
def test_p_in_closed_form(t):
    assert paired_test.two_sided_p(t, 1) == pytest.approx(2 * math.atan(1 / t) / math.pi, rel=1e-9)
    root = math.sqrt(2 + t * t)
    assert paired_test.two_sided_p(t, 2) == pytest.approx(2 / (root * (root + t)), rel=1e-9)
    assert paired_test.two_sided_p(t, 4e8) == pytest.approx(math.erfc(t / math.sqrt(2)), rel=1e-5)


def test_p_at_broken_degrees_of_freedom_is_the_integral_of_the_density():
    df = 3.7
    t = 1.9
    grid = np.linspace(0, 1.9, 100_001)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    inside = 2 * np.trapezoid(scale * (1 + grid**2 / df) ** (-(df + 1) / 2), grid)
    assert paired_test.two_sided_p(t, df) == pytest.approx(1 - inside, rel=1e-8)


def test_holm_by_hand():
    assert paired_test.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert paired_test.holm([0.4, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    assert paired_test.holm([0.02]) == [0.02]


# The difference of two systems


def test_two_seeds_three_users_by_hand():
    reference = np.array(
        [[0.0, 1, 2], [1, 2, 6]]
    )  # means over users 1 and 3, over seeds .5, 1.5, 4
    other = np.array([[4.0, 4, 4], [4, 4, 4]])
    got = paired_test.difference(reference, other, over_seeds=True)
    assert got.difference == pytest.approx(2)
    users = np.var([3.5, 2.5, 0], ddof=1) / 3
    # means differ by 2: variance 2, over 2 seeds 1. Residuals are (.5, .5, -1) and their negatives:
    # sum of squares 3, with 2 degrees of freedom 1.5, over 3 users and 2 seeds .25
    assert got.error_users**2 == pytest.approx(users)
    assert got.error_seeds**2 == pytest.approx(1 - 0.25)
    assert got.df == pytest.approx((users + 0.75) ** 2 / (users**2 / 2 + 1**2 / 1))
    assert got.high - got.low == pytest.approx(
        2 * paired_test.t_quantile(got.df) * math.sqrt(users + 0.75)
    )
    alone = paired_test.difference(reference, other, over_seeds=False)
    assert (alone.difference, alone.df, alone.error_seeds) == (got.difference, 2, 0)
    assert alone.error_users == got.error_users


def test_over_users_alone_is_the_paired_t_test_and_agrees_with_flipping_signs():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(1, 40))
    b = a + rng.normal(0.15, 1, (1, 40))
    d = (b - a)[0]
    got = paired_test.difference(a, b, over_seeds=False)
    assert (got.low + got.high) / 2 == pytest.approx(d.mean())
    assert got.high - d.mean() == pytest.approx(
        2.02269 * d.std(ddof=1) / math.sqrt(40), rel=1e-5
    )  # t of 39 degrees
    flipped = (rng.choice([-1, 1], (100_000, 40)) * d).mean(1)
    assert got.p == pytest.approx((abs(flipped) >= abs(d.mean())).mean(), abs=0.01)
    assert 0.01 < got.p < 0.5, "else the comparison says little"


def test_equal_systems_and_constant_differences():
    x = np.random.default_rng(0).random((2, 9)).round(2)
    same = paired_test.difference(x[:1], x[:1], over_seeds=False)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    both = paired_test.difference(x, x[::-1], over_seeds=True)
    assert both.difference == pytest.approx(0) and both.p > 0.99
    sure = paired_test.difference(np.zeros((1, 9)), np.ones((1, 9)), over_seeds=False)
    assert (sure.low, sure.high, sure.p) == (1, 1, 0)
    assert paired_test.difference(np.zeros((2, 9)), np.ones((2, 9)), over_seeds=True).p == 0


@pytest.mark.parametrize(
    ("seeds", "seed_effect", "user_effect", "noise"),
    [((3, 3), 0.0, 1, 1), ((3, 3), 0.1, 0.3, 1), ((2, 5), 0.3, 1, 0.3)],
)
def test_intervals_cover_the_true_difference(seeds, seed_effect, user_effect, noise):
    rng = np.random.default_rng(3)
    repetitions = 1000
    users = 150
    covered = 0
    for _ in range(repetitions):
        a, b = (
            rng.normal(0, seed_effect, (k, 1))
            + rng.normal(0, user_effect, users)
            + rng.normal(0, noise, (k, users))
            for k in seeds
        )
        got = paired_test.difference(a, b + 0.7, over_seeds=True)
        covered += got.low <= 0.7 <= got.high
        assert (got.p < 0.05) == (not got.low <= 0 <= got.high), "interval and p say the same"
    assert 0.935 < covered / repetitions < 0.99


def test_five_percent_of_null_differences_are_significant_but_not_by_users_alone():
    """Ranks of two equal systems of three seeds: seeds matter as much as users do."""
    rng = np.random.default_rng(4)
    repetitions = 500
    users = 200
    found = {True: 0, False: 0}
    for _ in range(repetitions):
        difficulty = rng.normal(0, 1.5, users)
        a, b = (
            np.stack(
                [
                    per_target(simulated_ranks(rng, users, 2, 0.2, difficulty))["ndcg@10"]
                    for _ in range(3)
                ]
            )
            for _ in range(2)
        )
        for over_seeds in found:
            found[over_seeds] += paired_test.difference(a, b, over_seeds).p < 0.05
    assert 0.02 < found[True] / repetitions < 0.08
    assert found[False] / repetitions > 0.15, (
        "the test would not tell otherwise that seeds are in it"
    )


# Run folders


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


# Refusals


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
