"""Figures 2 and 3 of the report, under each preset."""

import statistics

from ttt4rec_jax import plots
from ttt4rec_jax.paper import inner_learners
from ttt4rec_jax.paper.claims import COMIREC, reached_at
from ttt4rec_jax.paper.document import Block, Heading, Picture, Row, Table, Text, plural
from ttt4rec_jax.paper.jobs import BATCHES, RANGES, TITLES, Plan
from ttt4rec_jax.paper.ledger import METRIC, PROTOCOL
from ttt4rec_jax.paper.results import (
    Grid,
    GridPoint,
    Results,
    count_runs,
    figure3_grid,
    grid_size,
)


def _quick(plan: Plan) -> str:
    """Return the suffix of titles in pictures of a quick run."""
    return " (quick)" if plan.quick else ""


def figure2_blocks(plan: Plan, results: Results) -> list[Block]:
    """Return the section on Figure 2: ComiRec by epoch, TTT4Rec after one epoch."""
    heading = Heading(f"Figure 2: ComiRec by epoch on {plan.figures_on}")
    return [heading, *(b for preset in plan.presets for b in _figure2(plan, results, preset))]


def _figure2(plan: Plan, results: Results, preset: str) -> list[Block]:
    on = plan.figures_on
    heading = Heading(f"Preset {preset}", 3)
    runs = {m: results.runs.get(f"{preset}/{on}/{m}", []) for m in (*COMIREC, "ttt4rec")}
    lines = {TITLES[m]: [run.epochs for run in runs[m]] for m in COMIREC if runs[m]}
    if not lines:
        return [heading, Text("Missing: no finished run of ComiRec.")]
    ttt = [run.epochs[0] for run in runs["ttt4rec"]]
    dashed = (f"TTT4Rec after one epoch, mean of {plural(len(ttt), 'seed')}", ttt) if ttt else None
    figure = plots.epochs_and_line(
        lines, dashed, "NDCG@5, validation, 1:99", f"{on}, preset {preset}{_quick(plan)}"
    )
    caption = (
        f"NDCG@5 by epoch on {on} with --preset={preset}, on validation users at 1:99 (the test "
        "set is scored once, at the end). Bands: smallest to largest value over seeds."
    )
    if ttt:
        caption += f" {_passes(runs, statistics.fmean(ttt))}"
    else:
        caption += " TTT4Rec is missing."
    return [heading, Picture(f"figure2-{preset}.png", caption, plots.png(figure))]


def _passes(runs: dict, goal: float) -> str:
    """Return when the mean curve of each ComiRec variant passes TTT4Rec's first epoch."""
    texts = []
    for model in COMIREC:
        if not runs[model]:
            continue
        shortest = min(len(run.epochs) for run in runs[model])
        means = [statistics.fmean(run.epochs[i] for run in runs[model]) for i in range(shortest)]
        epoch = reached_at(means, goal)
        when = f"never within {shortest} epochs" if epoch is None else f"at epoch {epoch}"
        texts.append(f"{TITLES[model]} {when}")
    return f"The mean of the seeds passes TTT4Rec's first epoch: {', '.join(texts)}."


def figure3_blocks(plan: Plan, results: Results) -> list[Block]:
    """Return the section on Figure 3: initializer_range by mini_batch_size."""
    heading = Heading(f"Figure 3: initializer_range and mini_batch_size on {plan.figures_on}")
    text = Text(
        "With the preset fair, initializer_range sets the TTT layer's projections, its gate and "
        "W_0 (--initializer_reach=layer); with authors, projections, feed-forward network and "
        "embeddings, while W_0 and the gate keep .02 (pytorch)."
    )
    return [heading, text, *(b for p in plan.presets for b in _figure3(plan, results, p))]


def _figure3(plan: Plan, results: Results, preset: str) -> list[Block]:
    grid = figure3_grid(plan, results, preset)
    expected = grid_size(plan, preset)
    ranges = list(RANGES[preset])
    heading = Heading(f"Preset {preset}", 3)
    if not grid:
        return [heading, Text(f"Missing: none of the {expected} runs of the grid has a result.")]
    finished = count_runs(grid)
    validation = _means(grid, "validation")
    best_range, best_size = max(validation, key=lambda point: validation[point])
    seeds = plural(len(plan.seeds_on(plan.figures_on)), "seed")
    seeds = f"up to {seeds}" if finished < expected else seeds
    figure = plots.heat_map(
        [[validation.get((r, b)) for r in ranges] for b in BATCHES],
        ("mini_batch_size", list(BATCHES)),
        ("initializer_range", ranges),
        f"NDCG@5, validation, 1:99{_quick(plan)}",
        f"{plan.figures_on}, preset {preset}, mean of {seeds}",
        (BATCHES.index(best_size), ranges.index(best_range)),
    )
    caption = (
        f"NDCG@5 at 1:99 on validation users with --preset={preset}, at each run's best epoch; "
        f"{finished} of {expected} runs."
    )
    title = f"{plan.figures_on}{_quick(plan)}, preset {preset}, mean of {seeds}"
    return [
        heading,
        Picture(f"figure3-{preset}.png", caption, plots.png(figure)),
        Text("The same on test users (in brackets: seeds), by which the claims are decided:"),
        _test_table(grid, ranges),
        *inner_learners.blocks(grid, validation, title, f"figure3-inner-{preset}.png"),
    ]


def _means(grid: Grid, part: str) -> dict[GridPoint, float]:
    """Return NDCG@5 at 1:99 of each point, mean over seeds. part: validation or test."""
    return {
        point: statistics.fmean(getattr(run, part)[PROTOCOL][METRIC] for run in runs)
        for point, runs in grid.items()
    }


def _test_table(grid: Grid, ranges: list[float]) -> Table:
    test = _means(grid, "test")

    def text(point: GridPoint) -> str:
        return f"{test[point]:.4f} ({len(grid[point])})" if point in test else "missing"

    rows: list[Row] = [[str(b), *(text((r, b)) for r in ranges)] for b in BATCHES]
    return Table(["mini_batch_size", *(f"{r:g}" for r in ranges)], rows)
