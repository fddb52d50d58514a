"""Ranking metrics as pure functions of ranks, in float64 NumPy. Ties count in expectation.

Consider a target with `greater` candidates above it and `ties` candidates equal to it. If ties are
broken at random, its rank is uniform over greater + 1 .. greater + ties + 1; every metric here is
the expectation over that rank. A constant scorer gets exactly the chance level.

Also the names of metrics and protocols, and how metrics and p-values are printed. Imports neither
JAX nor polars.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.errors import UserError

# the evaluation protocols, and what they are called
PROTOCOLS = ("sampled", "full", "unfiltered")
PROTOCOL_TITLES = {
    "sampled": "sampled candidates",
    "full": "full catalogue",
    "unfiltered": "seen items kept",
}
USUAL_PROTOCOLS = ("sampled", "full")  # those of a run whose flags choose nothing else
CUTOFFS = (5, 10, 20)
AT_CUTOFFS = tuple(f"{name}@{k}" for k in CUTOFFS for name in ("hit", "ndcg"))
MOST_CUTOFF = 1000
AT_K = ("hit", "ndcg", "recall", "precision", "map")  # names of metrics of the first k items
COMPARED_METRICS = ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "mrr")  # of paired tests
HEADLINE_METRICS = ("hit@10", "ndcg@10")  # what a sweep's table shows
PAPER_METRICS = ("ndcg@5", "ndcg@10", "hit@5", "hit@10")  # the columns of the paper's Table 1
# the validation metrics that can select an epoch
SELECTORS = tuple(f"{p}/{m}@{k}" for p in PROTOCOLS for m in ("ndcg", "hit") for k in CUTOFFS)
TOP_K = ",".join(map(str, CUTOFFS))  # the default of --top_k


def cutoffs(top_k: str) -> tuple[int, ...]:
    """Return the numbers k that --top_k lists, ascending. Raises UserError."""
    parts = [part.strip() for part in top_k.split(",")]
    numbers = [int(part) if part.isdecimal() and len(part) < 9 else 0 for part in parts]
    for part, number in zip(parts, numbers, strict=True):
        if not 1 <= number <= MOST_CUTOFF:
            raise UserError(
                f"--top_k: {part!r} in {top_k!r} is not a whole number from 1 to {MOST_CUTOFF:,}; "
                "expected numbers separated by commas, as in 1,5,10"
            )
    return tuple(sorted(set(numbers)))


def cutoff(metric: str) -> int:
    """Return k of a metric of the first k items, such as "hit@10"."""
    return int(metric.partition("@")[2])


def shown_metrics(top_k: Sequence[int] = CUTOFFS) -> tuple[str, ...]:
    """Return the metrics that a run's table shows.

    Recall is left out, since it equals the hit rate; precision and MAP are shown if k was chosen.
    """
    names = ("hit", "ndcg") if tuple(top_k) == CUTOFFS else ("hit", "ndcg", "precision", "map")
    return (*(f"{name}@{k}" for k in top_k for name in names), "mrr", "auc")


def compared_metrics(top_k: Sequence[int] | None = None) -> tuple[str, ...]:
    """Return the metrics of paired tests; top_k: the numbers k if they were chosen."""
    if top_k is None:
        return COMPARED_METRICS
    return (*(f"{name}@{k}" for k in top_k for name in ("hit", "ndcg")), "mrr")


def label(metric: str) -> str:
    """Return the usual name of a metric: "HR@10" for "hit@10"."""
    return metric.upper().replace("HIT", "HR").replace("PRECISION", "PREC")


def p_text(p: float) -> str:
    """Return a p-value as text: "p = 0.0123", or "p < 0.0001"."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


class Ranks(NamedTuple):
    """For each target [T], the numbers of candidates above it, of ties, and of other candidates.

    `others` counts all candidates except the target.
    """

    greater: np.ndarray
    ties: np.ndarray
    others: np.ndarray


def _mean_over_ranks(cumulative: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Return the mean gain over a target's possible ranks [T].

    cumulative[r]: the gain summed over the ranks 1..r; constant beyond its end.
    """
    last = len(cumulative) - 1
    upper = cumulative[np.minimum(ranks.greater + ranks.ties + 1, last)]
    return (upper - cumulative[np.minimum(ranks.greater, last)]) / (ranks.ties + 1)


def hit(ranks: Ranks, k: int) -> np.ndarray:
    """Return Hit@k per target [T]: 1 if the target is among the first k."""
    return _mean_over_ranks(np.arange(k + 1.0), ranks)


def hit_curve(ranks: Ranks, last: int) -> np.ndarray:
    """Return the mean of Hit@k over targets, for k = 1..last: the distribution of the ranks."""
    weight = 1 / (ranks.ties + 1)
    change = np.zeros(last + 2)
    np.add.at(change, np.minimum(ranks.greater + 1, last + 1), weight)
    np.subtract.at(change, np.minimum(ranks.greater + ranks.ties + 2, last + 1), weight)
    return np.cumsum(np.cumsum(change))[1:-1] / max(len(ranks.ties), 1)


def ndcg(ranks: Ranks, k: int) -> np.ndarray:
    """Return NDCG@k per target [T]: 1 / log2(rank + 1) if the target is among the first k."""
    gains = 1 / np.log2(np.arange(2.0, k + 2))
    return _mean_over_ranks(np.concatenate([[0.0], np.cumsum(gains)]), ranks)


def precision(ranks: Ranks, k: int) -> np.ndarray:
    """Return Precision@k per target [T]: the share of the first k places that hold the target."""
    return hit(ranks, k) / k


def average_precision(ranks: Ranks, k: int) -> np.ndarray:
    """Return MAP@k per target [T]: 1 / rank if the target is among the first k."""
    return _mean_over_ranks(np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, k + 1))]), ranks)


def reciprocal_rank(ranks: Ranks) -> np.ndarray:
    """Return 1 / rank per target [T]."""
    worst = int((ranks.greater + ranks.ties).max(initial=0)) + 1
    gains = 1 / np.arange(1.0, worst + 1)
    return _mean_over_ranks(np.concatenate([[0.0], np.cumsum(gains)]), ranks)


def auc(ranks: Ranks) -> np.ndarray:
    """Return the fraction of other candidates below each target [T]; 1/2 if there are none."""
    below = ranks.others - ranks.greater - ranks.ties / 2
    return np.where(ranks.others > 0, below / np.maximum(ranks.others, 1), 0.5)


OF_FIRST_K: dict[str, Callable[[Ranks, int], np.ndarray]] = {
    "hit": hit,
    "ndcg": ndcg,
    "recall": hit,  # of a single target
    "precision": precision,
    "map": average_precision,
}


def taking_part(ranks: Ranks) -> np.ndarray:
    """Return which targets take part in the metrics [T].

    Targets without other candidates, whose users leave too few negatives, take no part; if all are
    such targets, they all do.
    """
    takes_part = ranks.others > 0
    return takes_part if takes_part.any() else np.ones_like(takes_part)


def chosen_ranks(ranks: Ranks, chosen: np.ndarray) -> Ranks:
    """Return the ranks of some targets. chosen: indices or a mask [T]."""
    return Ranks(*(counts[chosen] for counts in ranks))


def per_target(
    ranks: Ranks, top_k: Sequence[int] = CUTOFFS, names: Sequence[str] = ("hit", "ndcg")
) -> dict[str, np.ndarray]:
    """Return every metric of the targets that take part, {metric: values}.

    names: the metrics of the first k items, of AT_K.
    """
    ranks = chosen_ranks(ranks, taking_part(ranks))
    at_k = {f"{name}@{k}": OF_FIRST_K[name](ranks, k) for k in top_k for name in names}
    return at_k | {
        "mrr": reciprocal_rank(ranks),
        "auc": auc(ranks),
        "tie_rate": (ranks.ties > 0).astype(float),
    }


def summarise(
    ranks: Ranks, top_k: Sequence[int] = CUTOFFS, names: Sequence[str] = ("hit", "ndcg")
) -> dict[str, float]:
    """Return the means over targets, and half the widths of their normal 95% intervals.

    The half-widths are named `<metric>_ci95`.
    """
    values = per_target(ranks, top_k, names)
    means = {name: float(v.mean()) for name, v in values.items()}
    spread = {
        f"{n}_ci95": float(1.96 * v.std(ddof=1) / np.sqrt(len(v)))
        for n, v in values.items()
        if len(v) > 1
    }
    return means | {name: s for name, s in spread.items() if name != "tie_rate_ci95"}


def summarise_test(ranks: Ranks, top_k: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Return `summarise` of a test set: all metrics, at CUTOFFS and at the chosen numbers k."""
    return summarise(ranks, sorted({*CUTOFFS, *top_k}), AT_K)
