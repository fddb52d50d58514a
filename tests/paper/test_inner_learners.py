"""The report's section on inner learners shows what Figure 3's runs recorded."""

import numpy as np
import pytest
import scipy.stats
from helpers import epoch_lines, simulated_line

from ttt4rec_jax import plots
from ttt4rec_jax.paper import inner_learners, jobs, ledger, report
from ttt4rec_jax.paper.jobs import BATCHES, Plan
from ttt4rec_jax.paper.results import collect, figure3_grid

RANGES = jobs.RANGES["fair"]
PLAN = {"parts": ("figure3",), "presets": ("fair",), "datasets": ("beauty",)}


def stats(initializer_range, mini_batch_size, seed):
    """Return an epoch's "ttt_stats", of two blocks and two heads, with means in closed form."""
    after = 4 * (1 - 0.1 / mini_batch_size)
    figures = {
        "loss_before": [4.0, 4.0],
        "loss_after": [after - 0.2, after + 0.2],
        "weight_change": [0.1 / initializer_range + seed] * 2,
        "step": [0.01, 0.03],
    }
    return [figures, figures]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A finished grid whose runs recorded their inner learners; one value of one run is null."""
    plan = Plan(tmp_path_factory.mktemp("grid"), seeds=2, **PLAN)
    for job in jobs.grid(plan, "fair"):
        line = simulated_line(job, {})
        for run in line["runs"]:
            point = (run["initializer_range"], run["mini_batch_size"], run["seed"])
            recorded = stats(*point)
            if point == (0.5, 10, 1):
                recorded[0]["weight_change"] = [None, 1.0]
            run["inner"] = plots.inner_means(recorded)
        ledger.append(plan.output, line)
    return plan


@pytest.fixture(scope="module")
def grid(recorded):
    return figure3_grid(recorded, collect(recorded), "fair")


def test_the_grid_records_what_it_reports(recorded):
    assert all(
        config.record.ttt_stats for config in jobs.grid(recorded, "fair")[0].combinations.values()
    )


def test_a_points_statistics_are_means_over_heads_blocks_and_seeds(grid):
    points = inner_learners.grid_statistics(grid)
    assert set(points) == {(r, b) for r in RANGES for b in BATCHES}
    for (r, b), values in points.items():
        seeds = 0.0 if (r, b) == (0.5, 10) else 0.5  # seed 1 of that point has a null
        assert values == pytest.approx(
            {"reduction": 0.1 / b, "weight_change": 0.1 / r + seeds, "step": 0.02}
        )


def test_the_report_draws_and_describes_the_statistics_over_the_range(recorded, grid, monkeypatch):
    drawn = []
    draw = plots.lines_by_range
    monkeypatch.setattr(
        plots, "lines_by_range", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]
    )
    text, page = (path.read_text() for path in report.write(recorded, []))
    assert (recorded.output / "figure3-inner-fair.png").stat().st_size < 100_000
    assert page.count("data:image/png;base64,") == 2
    reduction, change, rate = drawn[0].axes
    assert [axes.get_xscale() for axes in drawn[0].axes] == ["log"] * 3
    for axes, value in ((reduction, lambda r, b: 0.1 / b), (rate, lambda r, b: 0.02)):
        lines = axes.get_lines()
        assert len(lines) == len(BATCHES)
        for line, b in zip(lines, BATCHES, strict=True):
            assert list(line.get_xdata()) == list(RANGES)
            assert list(line.get_ydata()) == pytest.approx([value(r, b) for r in RANGES])
    assert change.get_yscale() == "log"
    assert reduction.get_yscale() == "linear"
    assert "initializer_range" in rate.get_xlabel()
    assert [t.get_text() for t in drawn[0].legends[0].get_texts()] == [
        f"mini_batch_size {b}" for b in BATCHES
    ]
    # The means over sizes at both ends of the range; .575 = .1 / .5 + 3 / 4 of 1 / 2
    assert "fall of the inner loss: 4.5% at 0.001, 4.5% at 0.5" in text
    assert "weight change: 100 at 0.001, 0.575 at 0.5" in text
    assert "24 cells" in text
    assert "24 of 24 cells" in text
    assert "the rank correlation is undefined" in text, "the rates are all equal"
    ndcg = {
        point: np.mean([run.validation["sampled"]["ndcg@5"] for run in runs])
        for point, runs in grid.items()
    }
    changes = {
        point: values["weight_change"]
        for point, values in inner_learners.grid_statistics(grid).items()
    }
    rho = scipy.stats.spearmanr(list(changes.values()), [ndcg[p] for p in changes]).statistic
    best = max(ndcg, key=ndcg.get)
    assert f"0.575 at 0.5; in the best cell {changes[best]:.3g}; " in text
    assert f"rank correlation with NDCG@5 {rho:+.2f}" in text


def test_a_grid_without_records_says_so(tmp_path):
    plan = Plan(tmp_path, seeds=1, **PLAN)
    for job in jobs.grid(plan, "fair"):
        ledger.append(tmp_path, simulated_line(job, {}))
    text = report.write(plan, [])[0].read_text()
    assert "Not recorded" in text
    assert "figure3-fair.png" in text
    assert not (tmp_path / "figure3-inner-fair.png").exists()


def test_rank_correlation_is_spearmans_with_ties_and_undefined_without_variation():
    # ranks (1, 2.5, 2.5, 4) and (2, 1, 3, 4)
    expected = np.corrcoef([1, 2.5, 2.5, 4], [2, 1, 3, 4])[0, 1]
    assert inner_learners.rank_correlation([1, 5, 5, 9], [3, 2, 7, 8]) == pytest.approx(expected)
    assert np.isnan(inner_learners.rank_correlation([1, 1, 1], [1, 2, 3]))
    assert np.isnan(inner_learners.rank_correlation([1, 2], [1, 2]))


def test_curves_show_the_inner_learners_of_runs_that_recorded_them():
    lines = [line | {"ttt_stats": stats(0.1, line["epoch"], 0)} for line in epoch_lines(3)]
    assert len(plots.curves({"a": epoch_lines(3)}).axes) == 3
    figure = plots.curves({"a": epoch_lines(2), "b": lines})
    loss, change, step = figure.axes[3:]
    before, after = loss.get_lines()
    assert list(before.get_ydata()) == pytest.approx([4.0] * 3)
    assert before.get_markerfacecolor() == "white"
    assert list(after.get_ydata()) == pytest.approx([4 * (1 - 0.1 / b) for b in (1, 2, 3)])
    assert list(change.get_lines()[0].get_ydata()) == pytest.approx([1.0] * 3), (
        "the run without records has no line"
    )
    assert list(step.get_lines()[0].get_ydata()) == pytest.approx([0.02] * 3)
    assert all(axes.get_xlabel() == "epoch" for axes in figure.axes)
