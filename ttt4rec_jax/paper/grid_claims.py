"""The paper's claims on Figure 3, each decided by a pre-registered test; see claims.py.

Imports no JAX.
"""

import statistics
from collections.abc import Iterable

import numpy as np

from ttt4rec_jax.evaluation.paired_test import LEVEL, Difference
from ttt4rec_jax.paper.claims import (
    DID_NOT_HOLD,
    HELD,
    HELD_IN_PART,
    METRIC,
    NOT_SHOWN,
    PROTOCOL,
    UNDECIDED,
    Claim,
    by_user,
    compare_pairs,
    format_comparison,
)
from ttt4rec_jax.paper.results import Grid, count_runs
from ttt4rec_jax.runs.read import Run

Comparisons = dict[str, tuple[Difference, float]]


def mean_over_points(points: list[dict[int, Run]]) -> np.ndarray:
    """Return the metric by [seeds, users], averaged over points of the grid.

    points: the runs of each point by seed. Only seeds that all points have are used.
    """
    seeds = sorted(set.intersection(*map(set, points)))
    return np.mean([by_user([by_seed[seed] for seed in seeds]) for by_seed in points], axis=0)


def _too_few(grid: Grid, expected: int) -> list[str]:
    """Return the evidence that the grid is incomplete, [] if it is complete."""
    runs = count_runs(grid)
    if runs >= expected:
        return []
    return [f"{runs} of the {expected} runs of the grid have a result"]


def _means(values: Iterable[tuple[float, np.ndarray]]) -> str:
    return "means: " + ", ".join(f"{setting:g}: {x.mean():.4f}" for setting, x in values)


def _signs(results: Comparisons) -> list[int]:
    """Return 1 for a difference above 0 with p < LEVEL, -1 for one below 0, 0 for the others."""
    return [
        0 if p >= LEVEL else 1 if result.difference > 0 else -1 for result, p in results.values()
    ]


def _lines(setting: str, results: Comparisons, seeds: int) -> list[str]:
    return [
        format_comparison(f"{setting} {name}", result, p, seeds)
        for name, (result, p) in results.items()
    ]


def mini_batches(grid: Grid, expected: int) -> Claim:
    """Decide whether mini_batch_size 1 and 10 are better than 2 and 5, over all ranges.

    expected: the number of runs in the complete grid.
    """
    text = "mini_batch_size 1 and 10 are better than those between (2 and 5)."
    rule = (
        "Figure 3's grid: NDCG@5 of each size, averaged over the initializer_ranges, 1 and 10 each "
        "minus 2 and 5 each, paired over test users. The claim holds if all four differences are "
        f"above 0 with p < {LEVEL}, in part if some are and none is below 0 with p < {LEVEL}, and "
        "does not hold if one is."
    )
    if evidence := _too_few(grid, expected):
        return Claim(text, UNDECIDED, rule, evidence)
    means = {
        size: mean_over_points([by_seed for (_, b), by_seed in grid.items() if b == size])
        for size in (1, 2, 5, 10)
    }
    results = compare_pairs(
        {
            f"{outer} - {inner}": (means[inner], means[outer])
            for outer in (1, 10)
            for inner in (2, 5)
        }
    )
    signs = _signs(results)
    if min(signs) < 0:
        verdict = DID_NOT_HOLD
    elif min(signs) > 0:
        verdict = HELD
    else:
        verdict = HELD_IN_PART if max(signs) > 0 else NOT_SHOWN
    evidence = [_means(means.items()), *_lines("mini_batch_size", results, len(means[1]))]
    return Claim(text, verdict, rule, evidence)


def extreme_ranges(grid: Grid, expected: int) -> Claim:
    """Decide whether the smallest and the largest initializer_range are worse than one in between.

    The one in between is the best on validation. expected: the number of runs in the complete grid.
    """
    text = "Too small and too large an initializer_range are both harmful."
    rule = (
        "Figure 3's grid: NDCG@5 of the smallest and of the largest range, averaged over "
        "mini_batch_sizes, each minus that of the range between them with the best validation "
        f"NDCG@5, paired over test users. An end is harmful if its difference is below 0 with "
        f"p < {LEVEL}; the claim holds if both are, in part if one is."
    )
    if evidence := _too_few(grid, expected):
        return Claim(text, UNDECIDED, rule, evidence)
    by_range: dict[float, list[dict[int, Run]]] = {}
    for (initializer_range, _), by_seed in sorted(grid.items(), key=lambda point: point[0]):
        by_range.setdefault(initializer_range, []).append(by_seed)
    smallest, *between, largest = by_range
    validation = {r: _validation(by_range[r]) for r in between}
    middle = max(between, key=lambda r: validation[r])
    means = {r: mean_over_points(by_range[r]) for r in (smallest, middle, largest)}
    results = compare_pairs(
        {f"{end:g} - {middle:g}": (means[middle], means[end]) for end in (smallest, largest)}
    )
    signs = _signs(results)
    if max(signs) < 0:
        verdict = HELD
    elif min(signs) < 0:
        verdict = HELD_IN_PART
    else:
        verdict = DID_NOT_HOLD if max(signs) > 0 else NOT_SHOWN
    evidence = [_means(means.items()), *_lines("initializer_range", results, len(means[middle]))]
    return Claim(text, verdict, rule, evidence)


def _validation(points: list[dict[int, Run]]) -> float:
    """Return the mean validation metric of all runs of some points of the grid."""
    runs = [run for by_seed in points for run in by_seed.values()]
    return statistics.fmean(run.result["validation"][PROTOCOL][METRIC] for run in runs)
