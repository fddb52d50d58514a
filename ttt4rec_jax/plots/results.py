"""Figures of the results of several runs side by side."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttt4rec_jax.metrics import PROTOCOL_TITLES, PROTOCOLS, label
from ttt4rec_jax.plots.figure import (
    COLOURS,
    FONT_SIZE,
    MARKERS,
    add_axes,
    legend_below,
    line_style,
    new_figure,
)

Metrics: TypeAlias = dict[str, float]  # of one protocol; half-widths are named <metric>_ci95
WIDTH = 0.7  # of the points of all runs at one place of an axis


def intervals(runs: dict[str, dict[str, Metrics]], metrics: Sequence[str]) -> Figure:
    """Plot test metrics with their 95% intervals, a panel for each protocol.

    runs: {name: {protocol: metrics}}. A metric that a run does not have is left out.
    """
    protocols = _protocols(runs.values())
    figure = new_figure(3.4 * len(protocols) + 1.2, 3.6 + 0.2 * len(runs) / 3)
    for number, protocol in enumerate(protocols, 1):
        known = [m for m in metrics if any(m in run.get(protocol, {}) for run in runs.values())]
        title = PROTOCOL_TITLES[protocol]
        axes = add_axes(figure, (1, len(protocols), number), y="test metric", title=title)
        places = [{m: run.get(protocol, {}) for m in known} for run in runs.values()]
        _points(axes, [label(m) for m in known], [_values(of, known) for of in places])
    _legend(figure, list(runs))
    return figure


def segments(
    runs: dict[str, dict[str, dict[str, Any]]], metric: str, titles: dict[str, str]
) -> Figure:
    """Plot a metric with its 95% intervals by segment, a panel for each protocol and group.

    runs: {name: the "segments" of its result}. titles: {group: what its segments are by}.
    """
    entries = [entry for run in runs.values() for group in run.values() for entry in group.values()]
    protocols = _protocols(entries)
    groups = list(dict.fromkeys(group for run in runs.values() for group in run))
    size = len(protocols), len(groups)
    figure = new_figure(4.0 * len(groups), 2.9 * len(protocols) + 0.2 * len(runs) / 3)
    for row, protocol in enumerate(protocols):
        for column, group in enumerate(groups):
            all_names = (name for run in runs.values() for name in run.get(group, {}))
            names = list(dict.fromkeys(all_names))
            y = f"{label(metric)}, {PROTOCOL_TITLES[protocol]}"
            axes = add_axes(figure, (*size, row * len(groups) + column + 1), titles[group], y)
            of_runs = [run.get(group, {}) for run in runs.values()]
            places = [
                {name: of.get(name, {}).get(protocol, {}) for name in names} for of in of_runs
            ]
            _points(axes, names, [_values(of, names, metric) for of in places])
    _legend(figure, list(runs))
    return figure


def rank_distributions(runs: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Plot the share of targets among the first r candidates by r, a panel for each protocol.

    runs: {name: {protocol: that share for r = 1, 2, ...}}, as far as it is known.
    """
    protocols = _protocols(runs.values())
    figure = new_figure(3.6 * len(protocols) + 1.0, 3.6 + 0.2 * len(runs) / 3)
    for number, protocol in enumerate(protocols, 1):
        title = PROTOCOL_TITLES[protocol]
        y = "share of targets ranked 1 to r"
        axes = add_axes(figure, (1, len(protocols), number), "r", y, title)
        for index, (name, run) in enumerate(runs.items()):
            share = run.get(protocol, np.zeros(0))
            style = line_style(index, 1) | {"marker": "", "label": name if number == 1 else ""}
            axes.plot(np.arange(1, len(share) + 1), share, **style)
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
    legend_below(figure, min(3, len(runs)), 8)
    return figure


def _protocols(runs: Any) -> list[str]:
    return [p for p in PROTOCOLS if any(p in run for run in runs)]


def _values(
    places: dict[str, Metrics], names: Sequence[str], metric: str = ""
) -> list[tuple[float, float]]:
    """Return (value, half-width) of each place; NaN where it is not known."""
    keys = [metric or name for name in names]
    return [
        (places[name].get(key, np.nan), places[name].get(f"{key}_ci95", 0.0))
        for name, key in zip(names, keys, strict=True)
    ]


def _points(axes: Axes, names: list[str], runs: list[list[tuple[float, float]]]) -> None:
    """Plot a point with its interval for each run at each place of the x axis."""
    place = np.arange(len(names))
    for number, values in enumerate(runs):
        offset = (number - (len(runs) - 1) / 2) * WIDTH / max(len(runs), 1)
        mean, half = np.array(values).reshape(-1, 2).T
        axes.errorbar(
            place + offset,
            mean,
            half,
            fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            markersize=4.5,
            capsize=2.5,
            linewidth=1.2,
        )
    axes.set_xticks(place, names, fontsize=FONT_SIZE - 1, rotation=30 if len(names) > 5 else 0)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(bottom=0)


def _legend(figure: Figure, names: list[str]) -> None:
    """Name the runs below the panels, by the points of the first panel."""
    for points, name in zip(figure.axes[0].containers, names, strict=True):
        points.set_label(name)
    legend_below(figure, min(3, len(names)), 8)
