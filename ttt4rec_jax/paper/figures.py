"""Figures 2 and 3 of the report."""

import statistics

from ttt4rec_jax import plots
from ttt4rec_jax.paper import inner_learners
from ttt4rec_jax.paper.document import Block, Heading, Picture, Row, Table, Text, plural
from ttt4rec_jax.paper.jobs import BATCHES, RANGES, TITLES, Plan
from ttt4rec_jax.paper.results import (
    Grid,
    GridPoint,
    Results,
    count_runs,
    figure2_histories,
    figure3_grid,
    grid_size,
)


def _quick(plan: Plan) -> str:
    """Return the suffix of titles in pictures of a quick run."""
    return " (quick)" if plan.quick else ""


def figure2_blocks(plan: Plan, results: Results) -> list[Block]:
    """Return the section on Figure 2: ComiRec by epoch, TTT4Rec after one epoch."""
    dataset = plan.figures_on
    histories = figure2_histories(plan, results)
    heading = Heading(f"Figure 2: ComiRec by epoch on {dataset}")
    lines = {
        TITLES[model]: [[_validation(line) for line in run] for run in histories[model]]
        for model in ("comirec_sa", "comirec_dr")
        if histories[model]
    }
    if not lines:
        return [heading, Text("Missing: no finished epoch of ComiRec.")]
    ttt = [_validation(run[0]) for run in histories["ttt4rec"]]
    dashed = (f"TTT4Rec after one epoch, mean of {plural(len(ttt), 'seed')}", ttt) if ttt else None
    figure = plots.epochs_and_line(
        lines, dashed, "NDCG@5, validation, 1:99", f"{dataset}{_quick(plan)}"
    )
    caption = (
        f"NDCG@5 by epoch on {dataset}, on validation users at 1:99 (the test set is scored once, "
        "at the end). Bands: smallest to largest value over seeds."
    )
    if not ttt:
        caption += " TTT4Rec is missing."
    return [heading, Picture("figure2.png", caption, plots.png(figure))]


def _validation(line: dict) -> float:
    """Return the validation NDCG@5 at 1:99 of one epoch."""
    return line["validation"]["sampled"]["ndcg@5"]


def figure3_blocks(plan: Plan, results: Results) -> list[Block]:
    """Return the section on Figure 3: initializer_range by mini_batch_size."""
    grid = figure3_grid(plan, results)
    expected = grid_size(plan)
    heading = Heading(f"Figure 3: initializer_range and mini_batch_size on {plan.figures_on}")
    if not grid:
        return [heading, Text(f"Missing: none of the {expected} runs of the grid has a result.")]
    finished = count_runs(grid)
    validation = _means(grid, "validation")
    best_range, best_size = max(validation, key=lambda point: validation[point])
    seeds = plural(plan.seeds, "seed")
    seeds = f"up to {seeds}" if finished < expected else seeds
    figure = plots.heat_map(
        [[validation.get((r, b)) for r in RANGES] for b in BATCHES],
        ("mini_batch_size", list(BATCHES)),
        ("initializer_range", list(RANGES)),
        f"NDCG@5, validation, 1:99{_quick(plan)}",
        f"{plan.figures_on}, mean of {seeds}",
        (BATCHES.index(best_size), RANGES.index(best_range)),
    )
    caption = (
        "NDCG@5 at 1:99 on validation users, at each run's best epoch; "
        f"{finished} of {expected} runs."
    )
    title = f"{plan.figures_on}{_quick(plan)}, mean of {seeds}"
    return [
        heading,
        Picture("figure3.png", caption, plots.png(figure)),
        Text("The same on test users (in brackets: seeds), by which the claims are decided:"),
        _test_table(grid),
        *inner_learners.blocks(grid, validation, title),
    ]


def _means(grid: Grid, part: str) -> dict[GridPoint, float]:
    """Return NDCG@5 at 1:99 of each point, mean over seeds. part: validation or test."""
    return {
        point: statistics.fmean(run.result[part]["sampled"]["ndcg@5"] for run in by_seed.values())
        for point, by_seed in grid.items()
    }


def _test_table(grid: Grid) -> Table:
    test = _means(grid, "test")

    def text(point: GridPoint) -> str:
        return f"{test[point]:.4f} ({len(grid[point])})" if point in test else "missing"

    rows: list[Row] = [[str(b), *(text((r, b)) for r in RANGES)] for b in BATCHES]
    return Table(["mini_batch_size", *(f"{r:g}" for r in RANGES)], rows)
