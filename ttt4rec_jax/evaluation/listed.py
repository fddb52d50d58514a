"""What lists of recommendations determine of metrics. Imports neither JAX nor polars.

A list says which items come first and nothing of the others: the rank of a target that is not in
its list of n items is unknown, but more than n. It counts as the last candidate, a miss. So the
metrics of the first k are exact if no list has fewer than k items, and a lower bound otherwise;
`optimistic` gives the upper bound. Beyond the longest list, and for metrics of whole rankings (MRR,
AUC), nothing is known, and none is given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ttt4rec_jax.metrics import AT_K, CUTOFFS, Ranks, cutoff, summarise, summarise_test
from ttt4rec_jax.runs.read import Run


def is_unlisted(ranks: Ranks, lengths: np.ndarray) -> np.ndarray:
    """Return whether the rank of each target is unknown, since its list ends before it [T]."""
    return ranks.greater >= lengths


def optimistic(ranks: Ranks, lengths: np.ndarray) -> Ranks:
    """Return ranks in which each unlisted target comes right after its list."""
    greater = np.where(is_unlisted(ranks, lengths), lengths, ranks.greater)
    return ranks._replace(greater=greater)


def known_cutoffs(lengths: np.ndarray, top_k: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers k up to which some list goes."""
    return tuple(k for k in top_k if k <= lengths.max(initial=0))


def summarise_lists(
    ranks: Ranks, lengths: np.ndarray, top_k: Sequence[int] = CUTOFFS
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics that lists determine, as metrics.summarise_test, and their bounds.

    Bounds: {"k": {"short_lists": number, "at_most": {metric: value}}} for each k that is more than
    the length of a list, whose metrics are lower bounds. Users without a list are misses, and not
    counted there.
    """
    if not is_unlisted(ranks, lengths).any():
        return summarise_test(ranks, top_k), {}
    known = known_cutoffs(lengths, sorted({*CUTOFFS, *top_k}))
    values = summarise(ranks, known, AT_K)
    values = {n: x for n, x in values.items() if "@" in n or n == "tie_rate"}
    bounds = {}
    with_list = lengths > 0
    best = optimistic(ranks, lengths)
    best = best._replace(greater=np.where(with_list, best.greater, ranks.greater))
    for k in known:
        short = with_list & (lengths < k) & is_unlisted(ranks, lengths)
        if short.any():
            most = summarise(best, (k,), AT_K)
            at_most = {name: most[name] for name in (f"{metric}@{k}" for metric in AT_K)}
            bounds[str(k)] = {"short_lists": int(short.sum()), "at_most": at_most}
    return values, bounds


def known_metrics(run: Run, protocol: str, metrics: Sequence[str]) -> list[str]:
    """Return which of these metrics a run determines; its ranks may be those of lists."""
    lengths = run.listed.get(protocol)
    if lengths is None or not is_unlisted(run.ranks[protocol], lengths).any():
        return list(metrics)
    return [m for m in metrics if "@" in m and known_cutoffs(lengths, [cutoff(m)])]


def short_lists(run: Run, protocol: str, k: int) -> int:
    """Return how many lists of a run have fewer than k items, and not the target."""
    lengths = run.listed.get(protocol)
    if lengths is None:
        return 0
    return int(((lengths < k) & is_unlisted(run.ranks[protocol], lengths)).sum())
