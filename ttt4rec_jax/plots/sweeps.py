"""Figures of swept flags. Heat maps use cividis, which is also uniform in greyscale."""

import itertools
import math
from typing import Any

from matplotlib.figure import Figure

from ttt4rec_jax.plots.figure import (
    COLOURS,
    FONT_SIZE,
    MARKERS,
    NAMES,
    add_axes,
    legend,
    legend_below,
    line_style,
    log_if_wide,
    new_figure,
    number_ticks,
    tick,
    two_lines,
)


def line_over_seeds(
    points: list[tuple[Any, float, float, int]], flag: str, what: str, title: str, best: str
) -> Figure:
    """Plot a metric over one swept flag.

    points: (value, mean, std over seeds, number of seeds), in the order of the flag. what: the
    label of the means. best: the value to mark, as text.
    """
    figure = new_figure()
    values = [value for value, *_ in points]
    axes = add_axes(figure, x=NAMES.get(flag, flag), y=what, title=title)
    is_number = all(isinstance(value, (int, float)) for value in values)
    order = list(range(len(points)))
    if is_number:
        order.sort(key=values.__getitem__)
    x = [values[i] if is_number else rank for rank, i in enumerate(order)]
    mean = [points[i][1] for i in order]
    std = [points[i][2] for i in order]
    if is_number:
        low = [m - s for m, s in zip(mean, std, strict=True)]
        high = [m + s for m, s in zip(mean, std, strict=True)]
        band = "± std over seeds" if any(std) else None
        axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label=band)
        name = "mean" if any(std) else None
        axes.plot(x, mean, color=COLOURS[0], marker=MARKERS[0], label=name)
        number_ticks(axes, x)
    else:  # no line between values that have no order
        name = "mean ± std over seeds" if any(std) else None
        axes.errorbar(x, mean, std, fmt=MARKERS[0], color=COLOURS[0], capsize=4, label=name)
        axes.set_xticks(x, [str(values[i]) for i in order])
        axes.margins(x=0.15)
    rank = next(rank for rank, i in enumerate(order) if str(values[i]) == best)
    star: dict[str, Any] = {
        "marker": "*",
        "markersize": 15,
        "color": COLOURS[1],
        "linestyle": "none",
    }
    axes.plot([x[rank]], [mean[rank]], **star, label=f"best: {flag}={best}")
    legend(axes)
    return figure


def heat_map(
    cells: list[list[float | None]],
    rows: tuple[str, list[Any]],
    columns: tuple[str, list[Any]],
    what: str,
    title: str,
    best: tuple[int, int] | None,
) -> Figure:
    """Plot a metric over two swept flags.

    cells: numbers [rows][columns], None if unknown. rows, columns: (flag, values). what: the label
    of the numbers. best: (row, column) to mark.
    """
    row_flag, row_values = rows
    column_flag, column_values = columns
    figure = new_figure(1.9 + 0.85 * len(column_values), 1.3 + 0.52 * len(row_values))
    axes = figure.add_subplot()
    grid = [[math.nan if cell is None else cell for cell in row] for row in cells]
    known = [cell for row in cells for cell in row if cell is not None]
    low = min(known)
    high = max(known)
    top = high if high > low else low + 1e-9
    image = axes.imshow(grid, cmap="cividis", aspect="auto", vmin=low, vmax=top)
    axes.set_facecolor("white")
    for row, column in itertools.product(range(len(row_values)), range(len(column_values))):
        cell = cells[row][column]
        is_best = (row, column) == best
        style: dict[str, Any] = {"ha": "center", "va": "center"}
        if cell is None:
            axes.text(column, row, "-", color="#555555", **style)
            continue
        is_dark = high > low and (cell - low) / (high - low) < 0.55
        style |= {"color": "white" if is_dark else "black", "fontsize": FONT_SIZE - 1}
        text = f"{cell:.4f}\n★ best" if is_best else f"{cell:.4f}"
        axes.text(column, row, text, fontweight="bold" if is_best else "normal", **style)
    axes.set_xticks(range(len(column_values)), [tick(v) for v in column_values])
    axes.set_yticks(range(len(row_values)), [tick(v) for v in row_values])
    axes.set_xlabel(NAMES.get(column_flag, column_flag))
    axes.set_ylabel(row_flag)
    axes.set_title(title, fontsize=FONT_SIZE + 1)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05)
    bar.set_label(two_lines(what), fontsize=FONT_SIZE - 1)
    return figure


def lines_by_range(
    panels: dict[str, dict[str, list[tuple[float, float]]]],
    flag: str,
    title: str,
    linear: tuple[str, ...] = (),
) -> Figure:
    """Plot several quantities over one swept flag. panels: {quantity: {line: [(value, number)]}}.

    Axes are logarithmic if their values span a factor of ten, except the y axes of the quantities
    in `linear`.
    """
    figure = new_figure(3.5 * len(panels), 3.9)
    x_label = NAMES.get(flag, flag).replace(" (", "\n(")
    for number, (quantity, lines) in enumerate(panels.items(), 1):
        axes = add_axes(figure, (1, len(panels), number), x_label, quantity)
        for line, (name, points) in enumerate(lines.items()):
            x, values = zip(*points, strict=True)
            in_legend = name if number == 1 else None
            axes.plot(x, values, label=in_legend, **line_style(line, len(points)))
        number_ticks(axes, sorted({x for points in lines.values() for x, _ in points}), 45)
        if quantity not in linear:
            log_if_wide(axes)
    figure.suptitle(title, fontsize=FONT_SIZE + 1)
    legend_below(figure, 4, FONT_SIZE - 1)
    return figure
