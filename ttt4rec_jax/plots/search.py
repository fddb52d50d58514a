"""The picture of a search: its trials in their order, and how much each option matters."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ttt4rec_jax.plots.figure import COLOURS, FONT_SIZE, add_axes, legend, new_figure


def search(
    values: Sequence[float | None],
    stopped: Sequence[bool],
    importance: dict[str, float],
    metric: str,
) -> Figure:
    """Return the picture.

    values: of the trials in their order, None for one without a value. stopped: whether it was
    stopped early. importance: of each option, in sum 1; {} if it is not known.
    """
    figure = new_figure(8.6 if importance else 6.4)
    panels = 2 if importance else 1
    axes = add_axes(figure, (1, panels, 1), "trial", f"validation {metric}", "Trials")
    known = [
        (n, v, s) for n, (v, s) in enumerate(zip(values, stopped, strict=True)) if v is not None
    ]
    whole = [(n, v) for n, v, is_stopped in known if not is_stopped]
    early = [(n, v) for n, v, is_stopped in known if is_stopped]
    for points, marker, label in ((whole, "o", "complete"), (early, "x", "stopped early")):
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, color=COLOURS[0], label=label, markersize=5
            )
    if whole:
        best = np.maximum.accumulate([value for _, value in whole])
        axes.step([n for n, _ in whole], best, where="post", color=COLOURS[1], label="best so far")
    legend(axes)
    if importance:
        right = add_axes(figure, (1, 2, 2), "share of importance", "", "Options")
        names = list(importance)[::-1]
        right.barh(names, [importance[name] for name in names], color=COLOURS[2])
        right.tick_params(axis="y", labelsize=FONT_SIZE - 1)
        right.set_xlim(0, 1)
    return figure
