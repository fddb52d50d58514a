"""Figures of runs and sweeps: plain numbers in, a matplotlib Figure out.

No other package imports matplotlib. Imports no JAX.
"""

from ttt4rec_jax.plots.epochs import INNER, curves, epochs_and_line, inner_means
from ttt4rec_jax.plots.figure import png, save
from ttt4rec_jax.plots.results import intervals, rank_distributions, segments
from ttt4rec_jax.plots.search import search
from ttt4rec_jax.plots.sweeps import heat_map, line_over_seeds, lines_by_range
from ttt4rec_jax.plots.windows import by_window

__all__ = [
    "INNER",
    "by_window",
    "curves",
    "epochs_and_line",
    "heat_map",
    "inner_means",
    "intervals",
    "line_over_seeds",
    "lines_by_range",
    "png",
    "rank_distributions",
    "save",
    "search",
    "segments",
]
