"""The figure of a sweep: a line for one swept flag, a heat map for two or more. Imports no JAX."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ttt4rec_jax import metrics
from ttt4rec_jax.pipeline.sweep import over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Point(NamedTuple):
    """The validation metric of a combination over its seeds."""

    mean: float
    std: float
    seeds: int


def draw(root: Path, flags: dict[str, list], rows: list[dict], select_by: str) -> None:
    """Write sweep.png, if there is something to plot."""
    figure = picture(flags, rows, select_by)
    if figure is not None:
        from ttt4rec_jax import plots

        plots.save(figure, root / "sweep.png")


def picture(flags: dict[str, list], rows: list[dict], select_by: str) -> "Figure | None":
    """Return a line with a band over seeds, or a heat map; None if only seeds are swept.

    With more than two swept flags, the heat map shows the two with the most values; the others have
    their values in the best combination.
    """
    from ttt4rec_jax import plots  # not at the top: matplotlib takes a second to import

    means = over_seeds(rows, select_by)
    names = sorted(swept_flags(flags), key=lambda name: -len(flags[name]))[:2]
    if not names or not means:
        return None
    best = values_of(means[0]["combination"])
    fixed = {name: value for name, value in best.items() if name not in names}
    points = _points(means, names, fixed)
    seeds = max(row["seeds"] for row in means)
    label = f"validation {metric_label(select_by)}" + f", mean of {seeds} seeds" * (seeds > 1)
    title = ", ".join(f"{name}={value}" for name, value in fixed.items())
    if len(names) == 1:
        (name,) = names
        shown = [(x, *points[str(x),]) for x in flags[name] if (str(x),) in points]
        return plots.line_over_seeds(shown, name, label, title, best[name])
    column, row = names
    columns = [str(value) for value in flags[column]]
    lines = [str(value) for value in flags[row]]
    cells = [[points[x, y].mean if (x, y) in points else None for x in columns] for y in lines]
    mark = (lines.index(best[row]), columns.index(best[column]))
    return plots.heat_map(cells, (row, flags[row]), (column, flags[column]), label, title, mark)


def _points(
    means: list[dict], names: list[str], fixed: dict[str, str]
) -> dict[tuple[str, ...], _Point]:
    """Return the points to plot by the values of the flags `names`; the others are fixed."""
    points = {}
    for row in means:
        values = values_of(row["combination"])
        if fixed.items() <= values.items():
            key = tuple(values[name] for name in names)
            points[key] = _Point(row["mean"], row["std"], row["seeds"])
    return points


def swept_flags(flags: dict[str, list]) -> list[str]:
    """Return the flags that a sweep varies, except the seed."""
    return [name for name, values in flags.items() if len(values) > 1 and name != "seed"]


def values_of(combination: str) -> dict[str, str]:
    """Return {flag: value as text} of a combination."""
    return dict(part.split("=", 1) for part in combination.split(",") if "=" in part)


def metric_label(select_by: str) -> str:
    """Return the label of "sampled/ndcg@10" in figures."""
    protocol, metric = select_by.split("/")
    return f"{metrics.label(metric)}, {metrics.PROTOCOL_TITLES[protocol]}"
