"""Curves of runs: what is drawn is what the runs hold; the command line as a user meets it."""

import itertools
import json

import numpy as np
import pytest
from helpers import assert_one_line, epoch_lines, make_finished_run, run_script, try_mistakes

from ttt4rec_jax import metrics, plots
from ttt4rec_jax.plots import figure


def test_curves_are_the_runs_own_by_both_protocols():
    runs = {"one": epoch_lines(4), "pairs": epoch_lines(3, full=False)}
    loss, sampled, full = plots.curves(runs, "ndcg@5").axes
    assert list(loss.get_lines()[0].get_ydata()) == [3.0, 1.5, 1.0, 0.75]
    assert [len(axes.get_lines()) for axes in (loss, sampled, full)] == [2, 2, 1], (
        "a run without full figures has no line"
    )
    for axes, protocol in ((sampled, "sampled"), (full, "full")):
        expected = [line["validation"][protocol]["ndcg@5"] for line in runs["one"]]
        assert list(axes.get_lines()[0].get_ydata()) == expected and "NDCG@5" in axes.get_ylabel()
        assert axes.get_xlabel() == "epoch"


def test_lines_differ_without_their_colours():
    looks = [
        (s["linestyle"], s["marker"])
        for s in (figure.line_style(number, 10) for number in range(20))
    ]
    assert len(set(looks)) == 20
    assert all(
        len(axes.get_lines()) == 20
        for axes in plots.curves({str(n): epoch_lines(2) for n in range(20)}).axes
    )


def test_only_protocols_that_are_there_have_a_panel():
    assert len(plots.curves({"pairs": epoch_lines(2, full=False)}).axes) == 2


def test_a_band_spans_the_seeds_and_the_mean_is_theirs():
    lines = {"A": [[0.1, 0.2, 0.5], [0.3, 0.2]], "B": [[0.1, 0.1]]}
    axes = plots.epochs_and_line(lines, ("C after one epoch", [0.2, 0.3]), "NDCG@5", "").axes[0]
    a, b, dashed = axes.get_lines()
    assert list(a.get_ydata()) == pytest.approx([0.2, 0.2]) and list(b.get_xdata()) == [1, 2], (
        "epochs that all seeds had"
    )
    assert dashed.get_ydata()[0] == pytest.approx(0.25) and dashed.get_linestyle() == "--"
    assert {"A, mean of 2 seeds", "B", "C after one epoch"} == {
        t.get_text() for t in axes.get_legend().get_texts()
    }


def test_colours_keep_apart_in_grey():
    grey = sorted(
        sum(w * int(c[i : i + 2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5)))
        for c in figure.COLOURS[:5]
    )
    assert min(b - a for a, b in itertools.pairwise(grey)) > 5, (
        "and dashes tell apart those that are near"
    )


def test_the_same_figure_gives_the_same_small_file():
    one, two = (
        plots.png(plots.curves({"a": epoch_lines(30), "b": epoch_lines(50)})) for _ in range(2)
    )
    assert one == two and len(one) < 80_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("work")
    for name in ("one", "sweep/dropout=0.1", "sweep/dropout=0.5", "damaged", "floor"):
        (cwd / name).mkdir(parents=True)
        (cwd / name / "config.json").write_text("{}")
        if name != "floor":
            (cwd / name / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in epoch_lines(3))
            )
    (cwd / "sweep" / "sweep.json").write_text("{}")
    (cwd / "damaged" / "metrics.jsonl").write_text('{"epoch": 1')
    return cwd


def test_runs_and_sweeps_are_drawn(folders):
    done = run_script(
        "plot", None, "one", "sweep", "--output=all.png", "--metric=hit@10", cwd=folders
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "plotted 3 runs in all.png\n" and (
        folders / "all.png"
    ).read_bytes().startswith(b"\x89PNG")


MISTAKES = {
    "": "RUN: missing",
    "nowhere": "nowhere: not there",
    "floor": "floor: no epoch in metrics.jsonl",
    "damaged": "metrics.jsonl: cannot be read",
    "one --output=one.pdf": "one.pdf is not a .png",
    "one --output=nowhere/one.png": "nowhere/one.png cannot be written",
    "one --metric=ndcg@7": "ndcg@7",
}


@pytest.fixture(scope="module")
def outcomes(folders):
    return try_mistakes("plot", MISTAKES, folders)


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_clear_line(outcomes, flags):
    assert_one_line(outcomes[flags], MISTAKES[flags])


def runs_of_results():
    half = {"ndcg@10": 0.2, "ndcg@10_ci95": 0.05, "hit@10": 0.4}
    segments = {
        "item": {"head": {"targets": 3, "full": half}, "tail": {"targets": 2, "full": half}}
    }
    return half, segments


def test_metrics_and_segments_are_drawn_with_their_intervals():
    half, segments = runs_of_results()
    runs = {"ours": {"sampled": half, "full": half}, "lists": {"full": half}}
    sampled, full = plots.intervals(runs, ("hit@10", "ndcg@10", "mrr")).axes
    names = [tick.get_text() for tick in full.get_xticklabels()]
    assert names == ["HR@10", "NDCG@10"], "a metric that no run has is left out"
    for axes, drawn in ((full, (2, 2)), (sampled, (2, 0))):
        assert [
            int(np.isfinite(points.lines[0].get_ydata()).sum()) for points in axes.containers
        ] == list(drawn)
    x, y = full.containers[0].lines[0].get_data()
    assert y.tolist() == [0.4, 0.2] and x[0] < 0 < full.containers[1].lines[0].get_xdata()[0]
    (bars,) = full.containers[0].lines[2]
    low, high = bars.get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((0.15, 0.25))
    (axes,) = plots.segments({"ours": segments}, "ndcg@10", {"item": "by clicks"}).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["head", "tail"]
    assert axes.containers[0].lines[0].get_ydata().tolist() == [0.2, 0.2]
    assert axes.get_xlabel() == "by clicks" and "NDCG@10" in axes.get_ylabel()


def test_the_distribution_of_ranks_is_the_hit_rate_at_every_k():
    rng = np.random.default_rng(0)
    greater = rng.integers(0, 20, 50)
    ranks = metrics.Ranks(greater, rng.integers(0, 5, 50), np.full(50, 25))
    curve = metrics.hit_curve(ranks, 26)
    assert curve.tolist() == pytest.approx([metrics.hit(ranks, k).mean() for k in range(1, 27)])
    assert curve[-1] == pytest.approx(1) and len(metrics.hit_curve(ranks, 7)) == 7
    figure = plots.rank_distributions({"a": {"full": curve}, "b": {"sampled": curve[:3]}})
    sampled, full = figure.axes
    assert full.get_lines()[0].get_ydata().tolist() == curve.tolist()
    assert [len(line.get_xdata()) for line in sampled.get_lines()] == [0, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_results_are_plotted_from_the_command_line(tmp_path, environment):
    _, segments = runs_of_results()

    def with_segments(result, columns):
        result["segments"] = segments

    make_finished_run(tmp_path / "sasrec", "sasrec", change=with_segments)
    make_finished_run(tmp_path / "gru4rec", "gru4rec")
    for kind, names in (("metrics", ["sasrec", "gru4rec"]), ("segments", ["sasrec"])):
        done = run_script("plot", environment, *names, f"--kind={kind}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{kind}.png").read_bytes()[:4] == b"\x89PNG"
    outcomes = try_mistakes("plot", {"gru4rec --kind=segments": ""}, tmp_path)
    assert_one_line(outcomes["gru4rec --kind=segments"], "gru4rec: its result has no segments")
