"""The paper's claims on Figure 3; see claims.py. Imports no JAX."""

import statistics

from ttt4rec_jax.evaluation.paired_test import LEVEL
from ttt4rec_jax.paper.claims import (
    DID_NOT_HOLD,
    HELD,
    HELD_IN_PART,
    NOT_SHOWN,
    UNDECIDED,
    Claim,
    Verdict,
    combine,
)
from ttt4rec_jax.paper.ledger import METRIC, PROTOCOL, Trained
from ttt4rec_jax.paper.results import Grid, count_runs
from ttt4rec_jax.paper.seeds import contrasts

OUTER = (1, 10)
INNER = (2, 5)


def mean_by_seed(points: list[list[Trained]]) -> list[float]:
    """Return the score of each seed, averaged over points; only seeds that all points have."""
    by_seed = [{run.seed: run.score for run in runs} for runs in points]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    return [statistics.fmean(scores[seed] for scores in by_seed) for seed in seeds]


def _too_few(grid: Grid, expected: int) -> list[str]:
    """Return the evidence that the grid is incomplete, or has one seed; [] if neither."""
    runs = count_runs(grid)
    if runs < expected:
        return [f"{runs} of the {expected} runs of the grid have a result"]
    if any(len(by_seed) < 2 for by_seed in grid.values()):
        return ["one seed: a test needs two"]
    return []


MINI_BATCHES = Claim(
    "mini_batch_size 1 and 10 are better than those between (2 and 5).",
    "Figure 3's grid, within each initializer_range and for the mean over all of them: NDCG@5 of 1 "
    "and of 10, each minus that of 2 and of 5, over seeds; Holm's p over all ranges and the mean. "
    f"It holds for a range if all four differences are above 0 with p < {LEVEL}, in part if some "
    f"are and none is below 0 with p < {LEVEL}, and does not hold if one is. The verdict combines "
    "those of the ranges and of the mean.",
)


def mini_batches(grid: Grid, expected: int) -> Verdict:
    """Decide whether mini_batch_size 1 and 10 are better than 2 and 5.

    expected: the number of runs in the complete grid.
    """
    if evidence := _too_few(grid, expected):
        return Verdict(UNDECIDED, evidence)
    ranges = sorted({r for r, _ in grid})
    rows = {f"{r:g}": {b: mean_by_seed([grid[r, b]]) for b in (*OUTER, *INNER)} for r in ranges}
    rows["mean"] = {b: mean_by_seed([grid[r, b] for r in ranges]) for b in (*OUTER, *INNER)}
    tested = contrasts(
        {
            f"{name}: {outer} - {inner}": (by_size[inner], by_size[outer])
            for name, by_size in rows.items()
            for outer in OUTER
            for inner in INNER
        }
    )
    verdicts = []
    lines = []
    for name, by_size in rows.items():
        own = {key: test for key, test in tested.items() if key.startswith(f"{name}: ")}
        verdict = _of_signs([test.sign for test in own.values()])
        verdicts.append(verdict)
        means = ", ".join(f"{statistics.fmean(by_size[b]):.4f} ({b})" for b in sorted(by_size))
        where = "mean over all ranges" if name == "mean" else f"initializer_range {name}"
        text = f"{where}: {verdict}; NDCG@5 by size {means}"
        found = [key.split(": ")[1] for key, test in own.items() if test.sign]
        lines.append(text + (f"; significant: {', '.join(found)}" if found else ""))
    largest = max(test.detectable for test in tested.values())
    lines.append(f"with a power of 80%, every test would find a difference of {largest:.4f}")
    return Verdict(combine(verdicts), lines)


def _of_signs(signs: list[int]) -> str:
    if min(signs) < 0:
        return DID_NOT_HOLD
    if min(signs) > 0:
        return HELD
    return HELD_IN_PART if max(signs) > 0 else NOT_SHOWN


EXTREME_RANGES = Claim(
    "Too small and too large an initializer_range are both harmful.",
    "Figure 3's grid: NDCG@5 of the smallest and of the largest range, averaged over "
    "mini_batch_sizes, each minus that of the range between them with the best validation NDCG@5, "
    f"over seeds. An end is harmful if its difference is below 0 with p < {LEVEL}; the claim holds "
    "if both are, in part if one is.",
)


def extreme_ranges(grid: Grid, expected: int) -> Verdict:
    """Decide whether the smallest and the largest initializer_range are worse than one in between.

    The one in between is the best on validation. expected: the number of runs in the complete grid.
    """
    if evidence := _too_few(grid, expected):
        return Verdict(UNDECIDED, evidence)
    by_range: dict[float, list[list[Trained]]] = {}
    for (initializer_range, _), runs in sorted(grid.items(), key=lambda point: point[0]):
        by_range.setdefault(initializer_range, []).append(runs)
    smallest, *between, largest = by_range
    middle = max(between, key=lambda r: _validation(by_range[r]))
    means = {r: mean_by_seed(points) for r, points in by_range.items()}
    tested = contrasts(
        {f"{end:g} - {middle:g}": (means[middle], means[end]) for end in (smallest, largest)}
    )
    signs = [test.sign for test in tested.values()]
    if max(signs) < 0:
        verdict = HELD
    elif min(signs) < 0:
        verdict = HELD_IN_PART
    else:
        verdict = DID_NOT_HOLD if max(signs) > 0 else NOT_SHOWN
    values = ", ".join(f"{r:g}: {statistics.fmean(x):.4f}" for r, x in means.items())
    first = ", ".join(
        f"{r:g}: {statistics.fmean(run.epochs[0] for runs in points for run in runs):.4f}"
        for r, points in by_range.items()
    )
    return Verdict(
        verdict,
        [
            f"NDCG@5 by range: {values}",
            f"validation NDCG@5 after one epoch: {first}",
            *(test.text(f"initializer_range {name}") for name, test in tested.items()),
        ],
    )


def _validation(points: list[list[Trained]]) -> float:
    """Return the mean validation metric of all runs of some points of the grid."""
    return statistics.fmean(run.validation[PROTOCOL][METRIC] for runs in points for run in runs)
