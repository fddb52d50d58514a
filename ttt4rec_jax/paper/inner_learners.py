"""The report's section on inner learners, from the --ttt_stats of Figure 3's runs.

Imports no JAX.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ttt4rec_jax import plots
from ttt4rec_jax.paper.document import Block, Bullets, Heading, Picture, Text
from ttt4rec_jax.paper.ledger import Trained
from ttt4rec_jax.paper.results import Grid, GridPoint


class Quantity(NamedTuple):
    """A statistic of the inner learners: its name in a sentence, on an axis, and its format."""

    name: str
    label: str
    form: str


QUANTITIES = {
    "reduction": Quantity(
        "fall of the inner loss", "fall of the inner loss, share removed by an update", "{:.1%}"
    ),
    "weight_change": Quantity("weight change", plots.INNER["weight_change"], "{:.3g}"),
    "step": Quantity("inner learning rate", plots.INNER["step"], "{:.3g}"),
}
Statistics = dict[str, float]  # a value for each name of QUANTITIES


def run_statistics(run: Trained) -> Statistics | None:
    """Return a run's statistics at its best epoch, means over blocks and heads.

    None if the run recorded none, or if one of them is not finite.
    """
    if run.inner is None or not run.inner["loss_before"] > 0:
        return None
    reduction = 1 - run.inner["loss_after"] / run.inner["loss_before"]
    values = {name: (run.inner | {"reduction": reduction})[name] for name in QUANTITIES}
    return values if all(map(math.isfinite, values.values())) else None


def grid_statistics(grid: Grid) -> dict[GridPoint, Statistics]:
    """Return the statistics of each point of the grid that has any, means over its seeds."""
    points = {}
    for point, runs in grid.items():
        seeds = [values for run in runs if (values := run_statistics(run))]
        if seeds:
            points[point] = {
                name: statistics.fmean(values[name] for values in seeds) for name in QUANTITIES
            }
    return points


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rho; NaN for fewer than three pairs or if all values of one are equal."""
    from scipy.stats import spearmanr  # slow to import, and only the report needs it

    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return math.nan
    return float(spearmanr(a, b).statistic)


def findings(points: dict[GridPoint, Statistics], ndcg: dict[GridPoint, float]) -> list[Block]:
    """Return what the statistics show, in words. ndcg: validation NDCG@5 of each point."""
    best = max(points, key=lambda point: ndcg[point])
    texts = [_trend(name, points, ndcg, best) for name in QUANTITIES]
    return [
        Text(
            "By initializer_range, mean over mini_batch_sizes; the best cell on validation is "
            f"initializer_range {best[0]:g} with mini_batch_size {best[1]}:"
        ),
        Bullets(texts),
        Text(
            "Rank correlations are Spearman's, with validation NDCG@5 at 1:99 over "
            f"{len(points)} cells. They describe this grid; a correlation here need not be cause "
            "and effect. The range also sets the size of W_0: an equal change is a smaller share "
            "of a larger W_0."
        ),
    ]


def _trend(
    name: str,
    points: dict[GridPoint, Statistics],
    ndcg: dict[GridPoint, float],
    best: GridPoint,
) -> str:
    """Return how one statistic changes over the ranges, and its rank correlation with NDCG@5."""
    quantity = QUANTITIES[name]
    by_range: dict[float, list[float]] = {}
    for (initializer_range, _), values in sorted(points.items(), key=lambda item: item[0]):
        by_range.setdefault(initializer_range, []).append(values[name])
    means = {r: statistics.fmean(values) for r, values in by_range.items()}
    text = {r: quantity.form.format(mean) for r, mean in means.items()}
    smallest = min(means)
    largest = max(means)
    top = max(means, key=lambda r: means[r])
    rho = rank_correlation(
        [values[name] for values in points.values()], [ndcg[point] for point in points]
    )
    parts = [f"{text[smallest]} at {smallest:g}, {text[largest]} at {largest:g}"]
    if top not in (smallest, largest):
        parts[0] += f", greatest at {top:g} ({text[top]})"
    parts.append(f"in the best cell {quantity.form.format(points[best][name])}")
    parts.append(
        f"rank correlation with NDCG@5 {rho:+.2f}"
        if math.isfinite(rho)
        else "the rank correlation is undefined"
    )
    return f"{quantity.name}: {'; '.join(parts)}"


def blocks(grid: Grid, ndcg: dict[GridPoint, float], title: str, picture: str) -> list[Block]:
    """Return the section: a picture over initializer_range, and what it shows in words.

    ndcg: validation NDCG@5 of each point of the grid. picture: its file's name.
    """
    heading = Heading("What the inner learners do", 4)
    points = grid_statistics(grid)
    if not points:
        return [
            heading,
            Text("Not recorded: no run of the grid has statistics of its inner learners."),
        ]
    panels = {
        quantity.label: {
            f"mini_batch_size {size}": [
                (r, values[name]) for (r, b), values in sorted(points.items()) if b == size
            ]
            for size in sorted({b for _, b in points})
        }
        for name, quantity in QUANTITIES.items()
    }
    caption = (
        "Inner learners at each run's best epoch on at most 512 validation histories, mean over "
        "clicks, blocks, heads and seeds. Fall of the inner loss: from the weights at the start of "
        "a click's mini-batch to those after the update with the click. Weight change: of the "
        "matrices W, without biases, at a history's last click. Inner learning rate: learned rate "
        "times slot scale, by which a click's own gradient changes the weights that it sees. "
        f"{len(points)} of {len(grid)} cells."
    )
    figure = plots.lines_by_range(
        panels, "initializer_range", title, linear=(QUANTITIES["reduction"].label,)
    )
    return [
        heading,
        Picture(picture, caption, plots.png(figure)),
        *findings(points, ndcg),
    ]
