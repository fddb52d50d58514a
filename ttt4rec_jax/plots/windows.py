"""The figure of a rolling split: a test metric by window, with its mean."""

from typing import NamedTuple

from matplotlib.figure import Figure

from ttt4rec_jax.plots.figure import COLOURS, MARKERS, add_axes, legend, new_figure


class WindowCurve(NamedTuple):
    """A panel: the metric of each window with half its 95% interval, and that of their mean.

    mean, half_mean: None if there is one window alone.
    """

    label: str
    windows: list[int]
    values: list[float]
    halves: list[float]
    mean: float | None
    half_mean: float | None


def by_window(curves: list[WindowCurve], title: str = "") -> Figure:
    """Plot a panel for each of the two protocols, whose values must not be compared."""
    figure = new_figure(width=max(3.6 * len(curves), 4.6), height=3.4)
    for number, curve in enumerate(curves):
        axes = add_axes(figure, (1, len(curves), number + 1), "window", curve.label, title)
        axes.errorbar(
            curve.windows,
            curve.values,
            curve.halves,
            color=COLOURS[number],
            marker=MARKERS[number],
            capsize=4,
            label="95% over users",
        )
        if curve.mean is not None and curve.half_mean is not None:
            axes.axhline(curve.mean, color="black", linestyle="--", label="mean, 95% over windows")
            low = curve.mean - curve.half_mean
            high = curve.mean + curve.half_mean
            axes.axhspan(low, high, color="black", alpha=0.08, linewidth=0)
        axes.set_xticks(curve.windows)
        axes.margins(x=0.1)
        legend(axes)
    return figure
