"""Tests between two models whose unit is the seed: Welch's t test of their runs' metrics.

The test users are the same for all runs, so that a result says whether other trainings would show
the difference on these users. Imports no JAX.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ttt4rec_jax.evaluation.paired_test import LEVEL, holm, t_quantile
from ttt4rec_jax.metrics import p_text

POWER = 0.8


class Contrast(NamedTuple):
    """The difference other - reference of two means over seeds, with its 95% interval.

    p: after Holm's method over the contrasts of a family. detectable: the difference that the test
    would find with a power of 80%, given the deviations between seeds.
    """

    difference: float
    low: float
    high: float
    p: float
    detectable: float
    seeds: tuple[int, int]

    @property
    def sign(self) -> int:
        """1 or -1 if the difference is significantly above or below 0, else 0."""
        if self.p >= LEVEL:
            return 0
        return 1 if self.difference > 0 else -1

    def text(self, name: str) -> str:
        """Return the contrast in one line."""
        count = (
            str(self.seeds[0]) if len(set(self.seeds)) == 1 else " and ".join(map(str, self.seeds))
        )
        return (
            f"{name}: {self.difference:+.4f}, 95% interval [{self.low:+.4f}, {self.high:+.4f}], "
            f"{p_text(self.p)} (Holm), {count} seeds; {self.detectable:.4f} would be found with "
            f"a power of {POWER:.0%}"
        )


def can_test(*samples: Sequence[float]) -> bool:
    """Return whether every sample has the two seeds that a test needs."""
    return all(len(sample) > 1 for sample in samples)


def contrasts(pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, Contrast]:
    """Test each pair (reference, other) of metrics by seed, all with at least two seeds."""
    raw = {name: _contrast(*pair) for name, pair in pairs.items()}
    adjusted = holm([contrast.p for contrast in raw.values()])
    return {
        name: contrast._replace(p=p)
        for (name, contrast), p in zip(raw.items(), adjusted, strict=True)
    }


def _contrast(reference: Sequence[float], other: Sequence[float]) -> Contrast:
    from scipy import stats  # slow to import, and only the report needs it

    value = statistics.fmean(other) - statistics.fmean(reference)
    variances = [statistics.variance(x) / len(x) for x in (reference, other)]
    seeds = (len(reference), len(other))
    error = math.sqrt(sum(variances))
    if not error:  # runs that do not differ between seeds at all
        return Contrast(value, value, value, float(value == 0), 0.0, seeds)
    test = stats.ttest_ind(other, reference, equal_var=False)
    low, high = test.confidence_interval(1 - LEVEL)
    # P(|T| > t) = .4 at the quantile of the power of .8
    detectable = error * (t_quantile(test.df) + t_quantile(test.df, 2 * (1 - POWER)))
    return Contrast(value, float(low), float(high), float(test.pvalue), detectable, seeds)


def single_runs(samples: Sequence[Sequence[float]]) -> float:
    """Return the difference of two single runs that exceeds what seeds alone do in 95% of pairs.

    It is 1.96 * sqrt(2) times the standard deviation within samples; NaN if it is unknown.
    """
    usable = [sample for sample in samples if len(sample) > 1]
    if not usable:
        return math.nan
    freedom = sum(len(sample) - 1 for sample in usable)
    squares = sum(statistics.variance(sample) * (len(sample) - 1) for sample in usable)
    return 1.96 * math.sqrt(2 * squares / freedom)
