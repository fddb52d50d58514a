"""Figures of runs by epoch."""

import math
import statistics
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from ttt4rec_jax.metrics import PROTOCOL_TITLES, PROTOCOLS, label
from ttt4rec_jax.plots.figure import (
    COLOURS,
    add_axes,
    is_range,
    legend,
    legend_below,
    line_style,
    log_if_wide,
    new_figure,
    whole_epochs,
)

Epochs: TypeAlias = list[dict[str, Any]]  # the lines of a run's metrics.jsonl

INNER = {  # the plotted statistics of an epoch's "ttt_stats", and their labels
    "loss": "inner loss (squared error / 2), before (open) and after an update",
    "weight_change": "weight change at the last click, |W_t - W_0| / |W_0|",
    "step": "inner learning rate, mean over clicks",
}


def curves(runs: dict[str, Epochs], metric: str = "ndcg@10") -> Figure:
    """Plot the training loss and the validation metric of each protocol by epoch.

    A second row shows statistics of the inner learners if a run has recorded them (--ttt_stats).
    runs: {name: epochs}.
    """
    lines = [line for run in runs.values() for line in run]
    protocols = [p for p in PROTOCOLS if any(p in line["validation"] for line in lines)]
    rows = 1 + any("ttt_stats" in line for line in lines)
    panels = max(1 + len(protocols), len(INNER) if rows > 1 else 0)
    figure = new_figure(3.4 * panels, 3.6 * rows + 0.2 * max(0, len(runs) - 4))
    loss = add_axes(figure, (rows, panels, 1), "epoch", "training loss, mean over an epoch (nats)")
    validation = {}
    for number, protocol in enumerate(protocols, 2):
        y_label = f"validation {label(metric)}, {PROTOCOL_TITLES[protocol]}"
        validation[protocol] = add_axes(figure, (rows, panels, number), "epoch", y_label)
    for number, (name, run) in enumerate(runs.items()):
        style = line_style(number, len(run))
        epochs = [line["epoch"] for line in run]
        loss.plot(epochs, [line["loss"] for line in run], label=name, **style)
        for protocol, axes in validation.items():
            with_it = [line for line in run if protocol in line["validation"]]
            if with_it:
                values = [line["validation"][protocol][metric] for line in with_it]
                axes.plot([line["epoch"] for line in with_it], values, **style)
    if is_range([line["loss"] for line in lines]):
        loss.set_yscale("log")
    if rows > 1:
        _inner_curves(figure, rows, panels, runs)
    for axes in (loss, *validation.values()):
        whole_epochs(axes)
    if len(runs) > 1 or next(iter(runs)):
        legend_below(figure, min(3, len(runs)), 8)
    return figure


def inner_means(stats: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means over blocks and heads of an epoch's "ttt_stats"; NaN for unknown values."""
    by_name = {name: [x for block in stats for x in block[name]] for name in stats[0]}
    return {
        name: math.nan if None in values else statistics.fmean(values)
        for name, values in by_name.items()
    }


def _inner_curves(figure: Figure, rows: int, panels: int, runs: dict[str, Epochs]) -> None:
    """Plot the last row of `curves`."""
    first = (rows - 1) * panels + 1
    by_panel = {
        name: add_axes(figure, (rows, panels, number), "epoch", y_label)
        for number, (name, y_label) in enumerate(INNER.items(), first)
    }
    for number, run in enumerate(runs.values()):
        recorded = [line for line in run if "ttt_stats" in line]
        if not recorded:
            continue
        epochs = [line["epoch"] for line in recorded]
        means = [inner_means(line["ttt_stats"]) for line in recorded]
        style = line_style(number, len(recorded))
        open_style = style | {"markerfacecolor": "white", "linewidth": 0.8}
        by_panel["loss"].plot(epochs, [x["loss_before"] for x in means], **open_style)
        by_panel["loss"].plot(epochs, [x["loss_after"] for x in means], **style)
        for name in ("weight_change", "step"):
            by_panel[name].plot(epochs, [x[name] for x in means], **style)
    for axes in by_panel.values():
        log_if_wide(axes)
        whole_epochs(axes)


def epochs_and_line(
    lines: dict[str, list[list[float]]], dashed: tuple[str, list[float]] | None, y: str, title: str
) -> Figure:
    """Plot numbers by epoch: for each name the mean over seeds, and a band from lowest to highest.

    lines: {name: the numbers of each seed's epochs}; dashed: (name, a number per seed), plotted as
    a horizontal line.
    """
    figure = new_figure()
    axes = add_axes(figure, x="epoch", y=y, title=title)
    for number, (name, seeds) in enumerate(lines.items()):
        # only epochs that all seeds have, so that every mean is over the same seeds
        by_epoch = list(zip(*(seed[: min(map(len, seeds))] for seed in seeds), strict=True))
        epochs = list(range(1, len(by_epoch) + 1))
        full_name = f"{name}, mean of {len(seeds)} seeds" if len(seeds) > 1 else name
        means = [sum(values) / len(values) for values in by_epoch]
        axes.plot(epochs, means, label=full_name, **line_style(number, len(epochs)))
        if len(seeds) > 1:
            colour = COLOURS[number % len(COLOURS)]
            low = [min(values) for values in by_epoch]
            high = [max(values) for values in by_epoch]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    if dashed is not None:
        name, values = dashed
        style: dict[str, Any] = {"linestyle": (0, (6, 3)), "linewidth": 1.4}
        axes.axhline(sum(values) / len(values), color="#000000", label=name, **style)
        if len(values) > 1:
            axes.axhspan(min(values), max(values), color="#000000", alpha=0.1, linewidth=0)
    whole_epochs(axes)
    legend(axes)
    return figure
