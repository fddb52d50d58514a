"""A sweep's flags, programs, plan and picture."""

import json
import math

import pytest

from data_prep.settings import UserError
from ttt4rec_jax.cli import flags, run
from ttt4rec_jax.pipeline import sweep, sweep_picture
from ttt4rec_jax.pipeline.combinations import combine
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training.program import make_program


def combinations(*argv):
    lists, _ = flags.parse(["main.py", *argv], "purpose")
    return lists, combine(lists)[0]


@pytest.mark.parametrize(
    ("flag", "text", "values"),
    [
        ("initializer_range", "0.001:0.1:3:log", [0.001, 0.01, 0.1]),
        ("dropout", "0:0.4:5", [0.0, 0.1, 0.2, 0.3, 0.4]),
        ("dropout", "0.1:0.3:3,0.5", [0.1, 0.2, 0.3, 0.5]),
        ("learning_rate", "0.01:0.001:2", [0.01, 0.001]),
        ("mini_batch_size", "1:16:5:log", [1, 2, 4, 8, 16]),
        ("seed", "0:9:4", [0, 3, 6, 9]),
        ("model", "sasrec,ttt4rec", ["sasrec", "ttt4rec"]),
        ("loss", "bce,softmax", ["bce", "softmax"]),
    ],
)
def test_a_flag_takes_several_values(flag, text, values):
    lists, configs = combinations(f"--{flag}={text}")
    assert lists[flag] == values and all(type(v) is type(values[0]) for v in lists[flag])
    assert list(configs) == [f"{flag}={value}" for value in values]


def test_every_combination_is_there_and_those_of_one_shape_share_a_program():
    _, configs = combinations(
        "--initializer_range=0.001:1:4:log", "--mini_batch_size=1,10", "--seed=0,1"
    )
    assert len(configs) == 16
    groups = sweep.groups(configs)
    assert [len(group) for group in groups] == [8, 8]
    assert [{c.model.mini_batch_size for c in g.values()} for g in groups] == [{1}, {10}]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--dropout=0:1", "--dropout: '0:1' is not a range; expected lo:hi:n or lo:hi:n:log"),
        ("--dropout=0:1:3:lin", "is not a range"),
        ("--learning_rate=0:1:3:log", "limits above 0"),
        ("--learning_rate=0.1:1:1", "n of 2 to 1000"),
        ("--learning_rate=nan:1:3", "n of 2 to 1000"),
        ("--seed=0:1:100000000", "n of 2 to 1000"),
        ("--dim=64:x:3", "--dim: 'x' is not a whole number"),
        ("--mini_batch_size=1:3:9", "duplicate value"),
        ("--model=sasrec,sasrec", "duplicate value"),
        ("--model=sasrec,ttt4rc", "'ttt4rc' is not one of"),
        (
            "--model=sasrec,comirec_sa",
            "--preset=paper gives 10 to sasrec and 50 to comirec_sa; give --epochs for all",
        ),
        ("--targets=auto,last", "targets=auto and targets=last are the same run"),
        ("--dataset=beauty,ml1m", "'beauty,ml1m'"),
        ("--time=gaps,request", "--time: request cannot be swept together with other values"),
    ],
)
def test_a_wrong_list_is_one_line(argument, message):
    with pytest.raises(UserError) as error:
        combinations(argument)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_models_of_other_epochs_may_be_swept_if_epochs_are_given():
    _, configs = combinations("--model=sasrec,comirec_sa", "--epochs=10")
    assert {c.train.epochs for c in configs.values()} == {10}


def test_an_option_that_one_of_the_models_lacks_is_refused():
    with pytest.raises(
        UserError,
        match="--mini_batch_size: an option of --model=ttt4rec, which --model=sasrec does not have",
    ):
        combinations("--model=ttt4rec,sasrec", "--mini_batch_size=1,10")


def test_a_plan_counts_what_is_trained():
    _, configs = combinations(
        "--initializer_range=0.01,0.1", "--mini_batch_size=1,10", "--seed=0,1", "--epochs=3"
    )
    text = sweep.plan(sweep.groups(configs), [(1000, 4, 50_000)] * 2, num_finished=2)
    assert "8 to train in 2 programs, 2 already finished; nothing is trained" in text
    assert f"{8 * 3 * 1000:,} examples in {2 * 3 * 4} steps" in text
    assert f"{4 * 50_000 * 12 / 1e6:,.1f} MB" in text
    assert all(name in text for name in configs)


def test_a_dry_run_trains_and_writes_nothing_and_knows_what_is_finished(tmp_path, random_dataset):
    _, configs = combinations("--dim=16", "--seed=0,1,2", "--mini_batch_size=1,2")
    for name in list(configs)[:2]:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        content = {"model": "ttt4rec", "config": configs[name].to_dict()}
        folder.result.write_text(json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    text = run.dry_run(configs, random_dataset, tmp_path)
    assert "4 to train" in text and "2 already finished" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_counts_what_training_uses(random_dataset):
    _, configs = combinations("--model=gru4rec", "--dim=4", "--max_len=2")
    program = make_program(list(configs.values()), random_dataset)
    training = program.training
    expected = (training.num_examples, training.num_steps, program.num_parameters)
    assert run.size(configs[""], random_dataset) == expected


def test_a_dry_run_of_a_model_that_is_not_trained_costs_nothing(random_dataset, tmp_path):
    _, configs = combinations("--model=popularity")
    assert "cost      0 examples in 0 steps" in run.dry_run(configs, random_dataset, tmp_path)


# The table


def test_a_table_gives_a_deviation_only_over_several_seeds():
    def lines(*names):
        table = [
            {"combination": name, "seed": 0, "error": "", "validation full/ndcg@10": 0.1699}
            | {f"test {p}/{m}": 0.5 for p in ("sampled", "full") for m in ("hit@10", "ndcg@10")}
            for name in names
        ]
        return sweep.table(table, "full/ndcg@10").splitlines()

    single = lines("dim=8", "dim=16")
    assert single[1].endswith("1  0.1699  <- best") and "±" not in "".join(single)
    several = lines("dim=8,seed=0", "dim=8,seed=1", "dim=16,seed=0")
    assert several[1].endswith("2  0.1699 ± 0.0000  <- best") and several[2].endswith("1  0.1699")
    assert "mean ± std over seeds" in several[0] and "mean over 2 seeds" in several[4]


# The picture


def rows(names, metric):
    """Rows as sweep.rows makes them. metric: values by flag -> validation metric, None: failed."""
    table = []
    for name in names:
        value = metric(sweep_picture.values_of(name))
        row = {"combination": name, "seed": 0, "error": "" if value is not None else "not finite"}
        table.append(row if value is None else row | {"validation sampled/ndcg@10": value})
    return table


def test_one_swept_flag_is_a_line_with_a_band_on_a_log_axis():
    lists, configs = combinations("--initializer_range=0.001:1:4:log", "--seed=0,1")

    def metric(v):
        return (
            0.3
            - 0.01 * abs(math.log10(float(v["initializer_range"])) + 1)
            + 0.002 * (v["seed"] == "1")
        )

    axes = sweep_picture.picture(lists, rows(configs, metric), "sampled/ndcg@10").axes[0]
    line, star = axes.get_lines()
    assert list(line.get_xdata()) == [0.001, 0.01, 0.1, 1.0] and axes.get_xscale() == "log"
    assert list(line.get_ydata()) == pytest.approx([0.281, 0.291, 0.301, 0.291])
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((0.1, 0.301))
    low = axes.collections[0].get_paths()[0].vertices[:, 1].min()
    high = axes.collections[0].get_paths()[0].vertices[:, 1].max()
    std = 0.002 / math.sqrt(2)
    assert (low, high) == pytest.approx((0.281 - std, 0.301 + std))
    assert "NDCG@10" in axes.get_ylabel() and "initializer_range" in axes.get_xlabel()


def test_two_swept_flags_are_a_heat_map_with_failures_blank():
    lists, configs = combinations(
        "--initializer_range=0.01,0.1,0.5", "--mini_batch_size=1,10", "--seed=0,1"
    )

    def metric(v):
        if v["initializer_range"] == "0.5" and v["mini_batch_size"] == "10":
            return None
        return 0.2 + float(v["initializer_range"]) / 10 - int(v["mini_batch_size"]) / 1000

    axes = sweep_picture.picture(lists, rows(configs, metric), "sampled/ndcg@10").axes[0]
    grid = axes.get_images()[0].get_array()
    assert grid[:2, :2].tolist() == [pytest.approx([0.2, 0.209]), pytest.approx([0.191, 0.2])]
    assert bool(grid.mask[1, 2]) or math.isnan(float(grid.data[1, 2]))
    texts = [t.get_text() for t in axes.texts]
    assert "-" in texts and [t for t in texts if "best" in t] == ["0.2490\n★ best"]


def test_three_swept_flags_fix_the_third_at_its_best():
    lists, configs = combinations(
        "--initializer_range=0.01,0.1,0.5", "--mini_batch_size=1,5,10", "--dropout=0,0.5"
    )
    table = rows(configs, lambda v: 0.2 + float(v["dropout"]) / 10)
    axes = sweep_picture.picture(lists, table, "sampled/ndcg@10").axes[0]
    assert axes.get_title() == "dropout=0.5"
    assert {t.get_text()[:6] for t in axes.texts} == {"0.2500"}


def test_a_choice_is_drawn_without_a_line_and_seeds_alone_not_at_all(tmp_path):
    lists, configs = combinations("--model=sasrec,ttt4rec", "--seed=0,1")
    axes = sweep_picture.picture(
        lists, rows(configs, lambda v: 0.1 * len(v["model"])), "sampled/ndcg@10"
    )
    assert [t.get_text() for t in axes.axes[0].get_xticklabels()] == ["sasrec", "ttt4rec"]
    lists, configs = combinations("--seed=0,1")
    sweep_picture.draw(tmp_path, lists, rows(configs, lambda v: 0.1), "sampled/ndcg@10")
    assert not any(tmp_path.iterdir())


def test_a_sweep_all_of_whose_runs_failed_has_no_picture(tmp_path):
    lists, configs = combinations("--dropout=0,0.5")
    sweep_picture.draw(tmp_path, lists, rows(configs, lambda v: None), "sampled/ndcg@10")
    assert not any(tmp_path.iterdir())


def test_the_picture_is_written_small_and_whole(tmp_path):
    lists, configs = combinations("--dropout=0,0.5")
    sweep_picture.draw(tmp_path, lists, rows(configs, lambda v: 0.1), "sampled/ndcg@10")
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.png"]
    content = (tmp_path / "sweep.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 60_000
