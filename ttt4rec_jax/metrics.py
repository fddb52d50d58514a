"""Ranking metrics as pure functions of ranks, in float64 numpy. Ties count at their expectation.

A target with `greater` candidates above it and `ties` equal to it has, if ties are broken at
random, a rank that is uniform over greater + 1 .. greater + ties + 1; every metric here is its
expected value over that. A constant scorer gets exactly the chance level.
"""

from typing import NamedTuple

import numpy as np

PROTOCOLS = ("sampled", "full")
CUTOFFS = (5, 10, 20)


class Ranks(NamedTuple):
    """Per target [T]: how many candidates score above it, how many equal it, and how many there are beside it."""

    greater: np.ndarray
    ties: np.ndarray
    others: np.ndarray


def _mean_over_ranks(cumulative, ranks: Ranks):
    """Mean of a gain over a target's possible ranks; cumulative[r] is the gain summed over ranks 1..r."""
    last = len(cumulative) - 1
    upper = cumulative[np.minimum(ranks.greater + ranks.ties + 1, last)]
    return (upper - cumulative[np.minimum(ranks.greater, last)]) / (ranks.ties + 1)


def hit(ranks: Ranks, k: int):
    """Hit@k per target: 1 if it is among the first k."""
    return _mean_over_ranks(np.arange(k + 1.0), ranks)


def ndcg(ranks: Ranks, k: int):
    """NDCG@k per target: 1 / log2(rank + 1) if it is among the first k."""
    return _mean_over_ranks(
        np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2.0, k + 2)))]), ranks
    )


def reciprocal_rank(ranks: Ranks):
    """1 / rank per target."""
    worst = int((ranks.greater + ranks.ties).max(initial=0)) + 1
    return _mean_over_ranks(
        np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, worst + 1))]), ranks
    )


def auc(ranks: Ranks):
    """Share of the other candidates that score below the target, per target; 1/2 where there are none."""
    below = ranks.others - ranks.greater - ranks.ties / 2
    return np.where(ranks.others > 0, below / np.maximum(ranks.others, 1), 0.5)


def per_target(ranks: Ranks) -> dict[str, np.ndarray]:
    """Every metric, per target."""
    at_k = {
        f"{name}@{k}": metric(ranks, k)
        for k in CUTOFFS
        for name, metric in (("hit", hit), ("ndcg", ndcg))
    }
    return at_k | {
        "mrr": reciprocal_rank(ranks),
        "auc": auc(ranks),
        "tie_rate": (ranks.ties > 0).astype(float),
    }


def summarise(ranks: Ranks) -> dict[str, float]:
    """Means over targets, and `<metric>_ci95`, half the width of the normal 95% interval of the mean."""
    values = per_target(ranks)
    means = {name: float(v.mean()) for name, v in values.items()}
    spread = {
        f"{n}_ci95": float(1.96 * v.std(ddof=1) / np.sqrt(len(v)))
        for n, v in values.items()
        if len(v) > 1
    }
    return means | {name: s for name, s in spread.items() if name != "tie_rate_ci95"}
