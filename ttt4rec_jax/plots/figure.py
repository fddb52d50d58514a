"""The parts of figures: axes, ticks, legends, line styles; and a figure as a PNG.

Figures are readable in print and for the colour-blind: the colours are those of Okabe and Ito
(2008), and lines also differ in dash and marker.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from data_prep import atomic
from data_prep.text import shown_lines

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"
DPI = 110
FONT_SIZE = 9
GRID_COLOUR = "#DDDDDD"
NAMES = {  # labels of axes for flags whose names are not clear enough
    "initializer_range": "initializer_range (std of initial TTT parameters)",
    "mini_batch_size": "mini_batch_size (clicks per inner step)",
    "learning_rate": "learning_rate (Adam)",
    "epochs": "epochs",
}


class ShownFigure(Figure):
    """A figure that a notebook shows by itself, without pyplot."""

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        return png(self)


def new_figure(width: float = 6.4, height: float = 3.9) -> Figure:
    """Return an empty figure that needs no display. width, height: in inches."""
    figure = ShownFigure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as a small PNG of 128 colours. Equal figures give equal bytes."""
    raw = io.BytesIO()
    small = io.BytesIO()
    without_controls(figure)
    figure.savefig(raw, format="png", metadata={"Software": None})
    image = Image.open(raw).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def without_controls(figure: Figure) -> None:
    """Escape control characters in a figure's text, and draw $ in names as it is, not as maths."""
    ticks = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels(which="both")
    }
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in ticks:  # ticks have powers of ten as maths
            text.set_parse_math(False)
            text.set_text(shown_lines(text.get_text()))


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, whole or not at all. Raises OSError if it cannot be written."""
    with atomic.file(path) as file:
        file.write(png(figure))


def is_range(values: Sequence[Any]) -> bool:
    """Return whether values are easier to read on a log axis.

    That is, whether all are positive numbers and the largest is at least ten times the smallest.
    """
    numbers = [v for v in values if isinstance(v, (int, float))]
    if len(numbers) < len(values) or len(numbers) < 2:
        return False
    return min(numbers) > 0 and max(numbers) >= 10 * min(numbers)


def add_axes(
    figure: Figure,
    panel: tuple[int, int, int] = (1, 1, 1),
    x: str = "",
    y: str = "",
    title: str = "",
) -> Axes:
    axes = figure.add_subplot(*panel)
    axes.set_xlabel(x, fontsize=FONT_SIZE)
    axes.set_ylabel(two_lines(y), fontsize=FONT_SIZE)
    axes.set_title(title, fontsize=FONT_SIZE + 1)
    axes.grid(color=GRID_COLOUR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def two_lines(text: str) -> str:
    """Return the text with a line break after its first comma, to fit along an axis."""
    return text.replace(", ", ",\n", 1)


def tick(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def number_ticks(axes: Axes, values: Sequence[float], rotation: int = 0) -> None:
    """Set ticks at the values of a swept flag, on a log axis if they are a range."""
    if is_range(values):
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{v:g}" for v in values], rotation=rotation)
    axes.minorticks_off()


def legend(axes: Axes) -> None:
    if len(axes.get_lines()) > 0:
        axes.legend(fontsize=FONT_SIZE - 1, frameon=False, handlelength=3.2)


def legend_below(figure: Figure, columns: int, size: int) -> None:
    style: dict[str, Any] = {"frameon": False, "handlelength": 3.5}
    figure.legend(loc="outside lower center", ncols=columns, fontsize=size, **style)


def log_if_wide(axes: Axes) -> None:
    """Make the y axis logarithmic if the plotted values span a factor of ten."""
    drawn = [y for line in axes.get_lines() for y in np.asarray(line.get_ydata(), float)]
    if is_range([y for y in drawn if math.isfinite(y)]):
        axes.set_yscale("log")


def whole_epochs(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def line_style(number: int, points: int) -> dict[str, Any]:
    """Return colour, dash and marker of the n-th line; the first 280 differ from each other."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markevery": max(1, points // 10),
        "markersize": 4.5,
        "linewidth": 1.5,
    }
