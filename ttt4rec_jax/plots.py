"""Pictures of runs and sweeps, by matplotlib, which nothing else imports: plain numbers in, a Figure out. Imports no JAX.

Readable in print and for the colour-blind: the colours of Okabe and Ito (2008), and lines differ in
dash and marker as well; heat maps in cividis, which is as even in grey, with their numbers in the
cells.
"""

import io
import itertools
import math
import os
import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"
DPI = 110
STYLE = {"font_size": 9, "grid": "#DDDDDD"}
NAMES = {  # what an axis is called where a flag's name says too little
    "initializer_range": "initializer_range (std of initial TTT parameters)",
    "mini_batch_size": "mini_batch_size (clicks an inner step)",
    "learning_rate": "learning_rate (Adam)",
    "epochs": "epochs",
}


def new_figure(width: float = 6.4, height: float = 3.9) -> Figure:
    """An empty figure of a size in inches, drawn without a display."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a small PNG: 128 colours are all that lines and cells need. The same figure gives the same bytes."""
    raw = io.BytesIO()
    small = io.BytesIO()
    figure.savefig(raw, format="png", metadata={"Software": None})
    image = Image.open(raw).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG, in one piece."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(png(figure))
    os.replace(beside, path)


def is_range(values: list) -> bool:
    """Whether values are better read on a log axis: numbers above 0 whose largest is ten times the smallest or more."""
    numbers = [v for v in values if isinstance(v, (int, float))]
    return (
        len(numbers) == len(values) > 1 and min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
    )


def _axes(figure: Figure, place=(1, 1, 1), x: str = "", y: str = "", title: str = ""):
    axes = figure.add_subplot(*place)
    axes.set_xlabel(x, fontsize=STYLE["font_size"])
    axes.set_ylabel(
        y.replace(", ", ",\n", 1), fontsize=STYLE["font_size"]
    )  # in two lines, else it is longer than the axis
    axes.set_title(title, fontsize=STYLE["font_size"] + 1)
    axes.grid(color=STYLE["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _legend(axes) -> None:
    if len(axes.get_lines()) > 0:
        axes.legend(fontsize=STYLE["font_size"] - 1, frameon=False, handlelength=3.2)


# A sweep


def line_over_seeds(points: list[tuple], flag: str, what: str, title: str, best: str) -> Figure:
    """One swept flag. points: (value, mean, std over seeds, seeds), in the flag's order; best: the best value, as text."""
    figure = new_figure()
    values = [p[0] for p in points]
    axes = _axes(figure, x=NAMES.get(flag, flag), y=what, title=title)
    is_number = all(isinstance(v, (int, float)) for v in values)
    order = (
        sorted(range(len(points)), key=lambda i: values[i])
        if is_number
        else list(range(len(points)))
    )
    x = [values[i] if is_number else place for place, i in enumerate(order)]
    mean, std = ([points[i][column] for i in order] for column in (1, 2))
    if is_number:
        axes.fill_between(
            x,
            [m - s for m, s in zip(mean, std, strict=True)],
            [m + s for m, s in zip(mean, std, strict=True)],
            color=COLOURS[0],
            alpha=0.2,
            linewidth=0,
            label="± std over seeds" if any(std) else None,
        )
        axes.plot(x, mean, color=COLOURS[0], marker=MARKERS[0], label="mean" if any(std) else None)
        if is_range(x):
            axes.set_xscale("log")
        axes.set_xticks(x, [f"{v:g}" for v in x])
        axes.minorticks_off()
    else:  # no line between things that have no order
        label = "mean ± std over seeds" if any(std) else None
        axes.errorbar(x, mean, std, fmt=MARKERS[0], color=COLOURS[0], capsize=4, label=label)
        axes.set_xticks(x, [str(values[i]) for i in order])
        axes.margins(x=0.15)
    place = next(place for place, i in enumerate(order) if str(values[i]) == best)
    axes.plot(
        [x[place]],
        [mean[place]],
        marker="*",
        markersize=15,
        color=COLOURS[1],
        linestyle="none",
        label=f"best: {flag}={best}",
    )
    _legend(axes)
    return figure


def heat_map(
    cells: list[list],
    rows: tuple[str, list],
    columns: tuple[str, list],
    what: str,
    title: str,
    best: tuple | None,
) -> Figure:
    """Two swept flags. cells [rows][columns]: numbers, None where nothing is known; best: (row, column) to mark."""
    (row_flag, row_values) = rows
    (column_flag, column_values) = columns
    figure = new_figure(1.9 + 0.85 * len(column_values), 1.3 + 0.52 * len(row_values))
    axes = figure.add_subplot()
    grid = [[math.nan if cell is None else cell for cell in row] for row in cells]
    known = [cell for row in cells for cell in row if cell is not None]
    low = min(known)
    high = max(known)
    image = axes.imshow(
        grid, cmap="cividis", aspect="auto", vmin=low, vmax=high if high > low else low + 1e-9
    )
    axes.set_facecolor("white")
    for row, column in itertools.product(range(len(row_values)), range(len(column_values))):
        cell = cells[row][column]
        is_best = (row, column) == best
        if cell is None:
            axes.text(column, row, "-", ha="center", va="center", color="#555555")
            continue
        dark = high > low and (cell - low) / (high - low) < 0.55
        text = f"{cell:.4f}" + "\n★ best" * is_best
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color="white" if dark else "black",
            fontsize=STYLE["font_size"] - 1,
            fontweight="bold" if is_best else "normal",
        )
    axes.set_xticks(range(len(column_values)), [_tick(v) for v in column_values])
    axes.set_yticks(range(len(row_values)), [_tick(v) for v in row_values])
    axes.set_xlabel(NAMES.get(column_flag, column_flag))
    axes.set_ylabel(row_flag)
    axes.set_title(title, fontsize=STYLE["font_size"] + 1)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, fraction=0.05).set_label(
        what.replace(", ", ",\n", 1), fontsize=STYLE["font_size"] - 1
    )
    return figure


def _tick(value) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


# Runs by epoch


def curves(runs: dict[str, list[dict]], metric: str = "ndcg@10") -> Figure:
    """Training loss, and validation by each protocol that a run has, by epoch. runs: {name: the lines of metrics.jsonl}.

    A second row shows what the inner learners do, if a run has recorded it (--ttt_stats).
    """
    protocols = [
        p
        for p in ("sampled", "full")
        if any(p in line["validation"] for lines in runs.values() for line in lines)
    ]
    rows = 1 + any("ttt_stats" in line for lines in runs.values() for line in lines)
    label = metric.upper().replace("HIT", "HR")
    panels = max(1 + len(protocols), len(INNER) if rows > 1 else 0)
    figure = new_figure(3.4 * panels, 3.6 * rows + 0.2 * max(0, len(runs) - 4))
    names = {"sampled": "sampled candidates", "full": "full catalogue"}
    loss = _axes(figure, (rows, panels, 1), "epoch", "training loss, mean over an epoch (nats)")
    found = [
        (p, _axes(figure, (rows, panels, 2 + i), "epoch", f"validation {label}, {names[p]}"))
        for i, p in enumerate(protocols)
    ]
    losses = []
    for number, (name, lines) in enumerate(runs.items()):
        style = _style(number, len(lines))
        losses += [line["loss"] for line in lines]
        loss.plot(
            [line["epoch"] for line in lines], [line["loss"] for line in lines], label=name, **style
        )
        for protocol, axes in found:
            there = [line for line in lines if protocol in line["validation"]]
            if there:
                figures = [line["validation"][protocol][metric] for line in there]
                axes.plot([line["epoch"] for line in there], figures, **style)
    if is_range(losses):
        loss.set_yscale("log")
    if rows > 1:
        _inner_curves(figure, rows, panels, runs)
    for axes in (loss, *(axes for _, axes in found)):
        _whole_epochs(axes)
    if len(runs) > 1 or next(iter(runs)):
        figure.legend(
            loc="outside lower center",
            ncols=min(3, len(runs)),
            fontsize=8,
            frameon=False,
            handlelength=3.5,
        )
    return figure


INNER = {  # what of an epoch's "ttt_stats" is drawn, and what it is called
    "loss": "inner loss (squared error / 2), before (open) and after an update",
    "weight_change": "weight change at the last click, |W_t - W_0| / |W_0|",
    "step": "inner learning rate, mean over clicks",
}


def inner_means(stats: list[dict]) -> dict[str, float]:
    """The figures of an epoch's "ttt_stats", each its mean over blocks and heads; NaN where one is not known."""
    found = {name: [x for block in stats for x in block[name]] for name in stats[0]}
    return {
        name: math.nan if None in values else statistics.fmean(values)
        for name, values in found.items()
    }


def _inner_curves(figure: Figure, rows: int, panels: int, runs: dict[str, list[dict]]) -> None:
    """The last row of `curves`."""
    by_panel = {
        name: _axes(figure, (rows, panels, (rows - 1) * panels + place), "epoch", y)
        for place, (name, y) in enumerate(INNER.items(), 1)
    }
    for number, lines in enumerate(runs.values()):
        there = [
            (line["epoch"], inner_means(line["ttt_stats"])) for line in lines if "ttt_stats" in line
        ]
        style = _style(number, len(there))
        epochs = [epoch for epoch, _ in there]
        if not there:
            continue
        by_panel["loss"].plot(
            epochs,
            [x["loss_before"] for _, x in there],
            **style | {"markerfacecolor": "white", "linewidth": 0.8},
        )
        by_panel["loss"].plot(epochs, [x["loss_after"] for _, x in there], **style)
        for name in ("weight_change", "step"):
            by_panel[name].plot(epochs, [x[name] for _, x in there], **style)
    for axes in by_panel.values():
        _log_if_wide(axes)
        _whole_epochs(axes)


def _log_if_wide(axes) -> None:
    """A log axis of y if what is drawn spans a factor of ten or more."""
    if is_range([y for line in axes.get_lines() for y in line.get_ydata() if math.isfinite(y)]):
        axes.set_yscale("log")


def lines_by_range(
    panels: dict[str, dict[str, list[tuple]]], flag: str, title: str, linear: tuple[str, ...] = ()
) -> Figure:
    """Several figures over one swept flag. panels: {y: {line: [(value, figure)]}}.

    Axes are logarithmic where what is drawn spans a factor of ten; y is not in the panels named in
    `linear`.
    """
    figure = new_figure(3.5 * len(panels), 3.9)
    for place, (y, lines) in enumerate(panels.items(), 1):
        axes = _axes(figure, (1, len(panels), place), NAMES.get(flag, flag).replace(" (", "\n("), y)
        for number, (name, points) in enumerate(lines.items()):
            x, values = zip(*points, strict=True)
            axes.plot(x, values, label=name if place == 1 else None, **_style(number, len(points)))
        shown = sorted({value for points in lines.values() for value, _ in points})
        if is_range(shown):
            axes.set_xscale("log")
        axes.set_xticks(shown, [f"{v:g}" for v in shown], rotation=45)
        axes.minorticks_off()
        if y not in linear:
            _log_if_wide(axes)
    figure.suptitle(title, fontsize=STYLE["font_size"] + 1)
    figure.legend(
        loc="outside lower center",
        ncols=4,
        fontsize=STYLE["font_size"] - 1,
        frameon=False,
        handlelength=3.5,
    )
    return figure


def epochs_and_line(
    lines: dict[str, list[list[float]]], dashed: tuple[str, list[float]] | None, y: str, title: str
) -> Figure:
    """Figures by epoch, a mean line with a band (least to greatest) over seeds each; dashed: (name, a value a seed)."""
    figure = new_figure()
    axes = _axes(figure, x="epoch", y=y, title=title)
    for number, (name, seeds) in enumerate(lines.items()):
        # an epoch that all seeds had, so that the mean is over the same ones all along
        by_epoch = list(zip(*(s[: min(map(len, seeds))] for s in seeds), strict=True))
        x = list(range(1, len(by_epoch) + 1))
        mean = [sum(v) / len(v) for v in by_epoch]
        axes.plot(
            x,
            mean,
            label=name + f", mean of {len(seeds)} seeds" * (len(seeds) > 1),
            **_style(number, len(x)),
        )
        if len(seeds) > 1:
            low, high = ([f(v) for v in by_epoch] for f in (min, max))
            axes.fill_between(
                x, low, high, color=COLOURS[number % len(COLOURS)], alpha=0.18, linewidth=0
            )
    if dashed is not None:
        name, values = dashed
        axes.axhline(
            sum(values) / len(values),
            color="#000000",
            linestyle=(0, (6, 3)),
            linewidth=1.4,
            label=name,
        )
        if len(values) > 1:
            axes.axhspan(min(values), max(values), color="#000000", alpha=0.1, linewidth=0)
    _whole_epochs(axes)
    _legend(axes)
    return figure


def _style(number: int, points: int) -> dict:
    """Colour, dash and marker of the so-manieth line; of which no two share all three before the 280th."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markevery": max(1, points // 10),
        "markersize": 4.5,
        "linewidth": 1.5,
    }


def _whole_epochs(axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
