"""What the runs of Figure 3 recorded of their inner learners (--ttt_stats), as blocks of the report. Imports no JAX."""

import math
import statistics
from typing import NamedTuple

import numpy as np

from ttt4rec_jax import plots
from ttt4rec_jax.paper.document import Bullets, Heading, Picture, Text
from ttt4rec_jax.runs.read import Run

Cell = tuple[float, int]  # initializer_range, mini_batch_size


class Quantity(NamedTuple):
    """A figure of the inner learners: its name in a sentence, on an axis, and how its values are written."""

    name: str
    label: str
    form: str


QUANTITIES = {
    "reduction": Quantity(
        "fall of the inner loss", "fall of the inner loss, share taken off by an update", "{:.1%}"
    ),
    "weight_change": Quantity("weight change", plots.INNER["weight_change"], "{:.3g}"),
    "step": Quantity("inner learning rate", plots.INNER["step"], "{:.3g}"),
}


def figures_of(run: Run) -> dict[str, float] | None:
    """A run's figures at its best epoch, means over blocks and heads; None if one is not recorded or not known."""
    if "ttt_stats" not in run.result:
        return None
    found = plots.inner_means(run.result["ttt_stats"])
    if not found["loss_before"] > 0:
        return None
    found["reduction"] = 1 - found["loss_after"] / found["loss_before"]
    kept = {name: found[name] for name in QUANTITIES}
    return kept if all(map(math.isfinite, kept.values())) else None


def by_cell(cells: dict[Cell, dict[int, Run]]) -> dict[Cell, dict[str, float]]:
    """The figures of each cell of the grid that has any, means over its seeds. cells: `claims.values_of`."""
    found = {
        cell: [figures for run in runs.values() if (figures := figures_of(run))]
        for cell, runs in cells.items()
    }
    return {
        cell: {name: statistics.fmean(figures[name] for figures in seeds) for name in QUANTITIES}
        for cell, seeds in found.items()
        if seeds
    }


def ranks(values) -> np.ndarray:
    """1 for the least of the values, equal ones sharing the mean of their places."""
    values = np.asarray(values)
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return below + (equal + 1) / 2


def rank_correlation(a, b) -> float:
    """Spearman's rho; NaN of fewer than three pairs, or where all are equal."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def said(found: dict[Cell, dict[str, float]], ndcg: dict[Cell, float]) -> list:
    """In words and from the figures alone, what they show. ndcg: the validation figure of each cell."""
    ranges = sorted({cell[0] for cell in found})
    best = max(found, key=ndcg.get)
    texts = []
    for name, quantity in QUANTITIES.items():
        means = {
            r: statistics.fmean(x[name] for cell, x in found.items() if cell[0] == r)
            for r in ranges
        }
        write = quantity.form.format
        top = max(means, key=means.get)
        ends = f"{write(means[ranges[0]])} at {ranges[0]:g}, {write(means[ranges[-1]])} at {ranges[-1]:g}"
        middle = (
            f", greatest at {top:g} ({write(means[top])})"
            if top not in (ranges[0], ranges[-1])
            else ""
        )
        rho = rank_correlation([x[name] for x in found.values()], [ndcg[cell] for cell in found])
        along = (
            f"rank correlation with NDCG@5 {rho:+.2f}"
            if math.isfinite(rho)
            else "no rank correlation can be given"
        )
        texts.append(
            f"{quantity.name}: {ends}{middle}; in the best cell {write(found[best][name])}; {along}"
        )
    return [
        Text(
            "By initializer_range, mean over mini_batch_sizes; the best cell on validation is initializer_range "
            f"{best[0]:g} with mini_batch_size {best[1]}:"
        ),
        Bullets(texts),
        Text(
            f"Rank correlations are Spearman's, with validation NDCG@5 at 1:99 over {len(found)} cells: they describe this "
            "grid, and what goes together here need not be cause and effect. The range sets the size of W_0 as well: an equal "
            "change is a smaller share of a larger W_0."
        ),
    ]


def blocks(cells: dict[Cell, dict[int, Run]], ndcg: dict[Cell, float], title: str) -> list:
    """The picture over initializer_range, a line a mini_batch_size, and what it shows. ndcg: validation, of each cell."""
    found = by_cell(cells)
    heading = Heading("What the inner learners do", 3)
    if not found:
        return [
            heading,
            Text(
                "Not recorded: no run of the grid has figures of its inner learners (--ttt_stats)."
            ),
        ]
    batches = sorted({cell[1] for cell in found})
    panels = {
        quantity.label: {
            f"mini_batch_size {b}": [
                (r, x[name]) for (r, size), x in sorted(found.items()) if size == b
            ]
            for b in batches
        }
        for name, quantity in QUANTITIES.items()
    }
    caption = (
        "Inner learners at each run's best epoch on at most 512 validation histories, mean over clicks, blocks, heads and "
        "seeds. Fall of the inner loss: from the weights that a click's mini-batch began with to those after the update with "
        "the click. Weight change: of the matrices W, biases left out, at a history's last click. Inner learning rate: learned "
        "rate times slot scale, by which a click's own gradient moves the weights that it sees. "
        f"{len(found)} of {len(cells)} cells."
    )
    figure = plots.lines_by_range(
        panels, "initializer_range", title, linear=(QUANTITIES["reduction"].label,)
    )
    return [
        heading,
        Picture("figure3-inner.png", caption, plots.png(figure)),
        *said(found, ndcg),
    ]
