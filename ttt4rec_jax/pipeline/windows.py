"""A rolling split: a run for each window in time, and what they are together.

The windows are the members of a sweep over `window`, each with data of its own, so that they resume
and are read like any sweep. Their table, windows.json and windows.png take the place of those that
choose the best member. Imports no JAX before anything is trained.
"""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.settings import DataConfig, UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.metrics import PROTOCOL_TITLES, PROTOCOLS, label
from ttt4rec_jax.pipeline import sweep
from ttt4rec_jax.runs.folder import write_json

if TYPE_CHECKING:
    from ttt4rec_jax.pipeline.experiment import Experiment

SHOWN = "ndcg@10"  # in the table and the picture; windows.json has all metrics


def expanded(lists: dict[str, list]) -> dict[str, list]:
    """Return the values of a run's options with every window where all are asked for."""
    if lists["split"][0] == "rolling" and lists["window"] == [0]:
        return lists | {"window": list(range(1, lists["windows"][0] + 1))}
    return lists


def by_data(combinations: dict[str, Config]) -> list[dict[str, Config]]:
    """Return the combinations of each window; all of them if they share their data."""
    parts: dict[DataConfig, dict[str, Config]] = {}
    for name, config in combinations.items():
        parts.setdefault(config.data, {})[name] = config
    return list(parts.values())


def train_all(
    experiments: Iterable["Experiment"], combinations: dict[str, Config]
) -> list[dict[str, Any]]:
    """Train every combination that has no result yet, window by window, and write the results.

    experiments: one for each window, of its combinations; made when it is needed. combinations:
    all of them. Returns what `summary` does, and raises what experiment.train_all does.
    """
    from ttt4rec_jax.pipeline.experiment import train_missing

    results: dict[str, dict] = {}
    for experiment in experiments:
        log = experiment.log
        root = experiment.root.path
        flags = experiment.flags
        number = next(iter(experiment.combinations.values())).data.window
        log(f"\nwindow     {number} of {flags['windows'][0]}")
        results |= train_missing(experiment)
    select_by = next(iter(combinations.values())).eval.select_by
    rows = sweep.rows(results, select_by)
    sweep.write(root, flags, rows, select_by)
    if all(row["error"] for row in rows):
        raise UserError(f"no window has a result; see {root / 'sweep.json'}")
    found = summary(results, combinations, select_by)
    write_json(root / "windows.json", found)
    draw(root, found)
    log(f"\n{table(found, select_by)}")
    log(f"results    {root}")
    return found


def summary(
    results: dict[str, dict], combinations: dict[str, Config], select_by: str
) -> list[dict[str, Any]]:
    """Return the content of windows.json: what is the same but for the window, best one first.

    Each has its name, its windows, and test metrics as means over windows with half the width of
    a 95% interval by Student's t, whose unit is the window. The order is that of the mean of
    validation metrics.
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for name, config in combinations.items():
        rest = ",".join(p for p in name.split(",") if not p.startswith("window="))
        grouped.setdefault(rest, []).append(_window(config.data.window, results[name]))
    protocol, metric = select_by.split("/")
    found = []
    for name, of_name in grouped.items():
        finished = [one for one in of_name if not one["error"]]
        entry: dict[str, Any] = {"combination": name, "windows": of_name}
        if finished:
            entry["validation"] = statistics.fmean(
                one["validation"][protocol][metric] for one in finished
            )
            entry["mean"] = {
                p: _means([one["test"][p] for one in finished])
                for p in PROTOCOLS
                if p in finished[0]["test"]
            }
        found.append(entry)
    return sorted(found, key=lambda entry: -entry.get("validation", -1))


def _window(number: int, result: dict) -> dict[str, Any]:
    """Return what windows.json says of a window."""
    if error := result.get("error", ""):
        return {"window": number, "error": error}
    data = result["dataset"]
    counts = {"targets": data["test"], "new_users": data.get("test_new_users", 0)}
    parts = {n: result[n] for n in ("validation", "test", "test_by_user") if n in result}
    return {"window": number, "error": "", **counts, **parts}


def _means(of_windows: list[dict[str, float]]) -> dict[str, float]:
    """Return the means of metrics over windows, and half the widths of their 95% intervals."""
    from ttt4rec_jax.evaluation.paired_test import t_quantile  # scipy takes long to import

    count = len(of_windows)
    found = {}
    for name in (name for name in of_windows[0] if not name.endswith("_ci95")):
        values = [metrics[name] for metrics in of_windows]
        found[name] = statistics.fmean(values)
        if count > 1:
            half = t_quantile(count - 1) * statistics.stdev(values) / count**0.5
            found[f"{name}_ci95"] = half
    return found


def table(found: list[dict[str, Any]], select_by: str) -> str:
    """Return a line for each window of the best combination, and their mean."""
    best = found[0]
    finished = [one for one in best["windows"] if not one["error"]]
    protocols = list(best["mean"])
    heads = "".join(f"  {PROTOCOL_TITLES[p]:>20}" for p in protocols)
    lines = [f"test {label(SHOWN)}{heads}   ± 95% over users"]
    for one in finished:
        cells = "".join(f"  {_cell(one['test'][p]):>20}" for p in protocols)
        new = f", {one['new_users']:,} of new users" if one["new_users"] else ""
        lines.append(f"window {one['window']:<5}{cells}   {one['targets']:,} targets{new}")
    cells = "".join(f"  {_cell(best['mean'][p]):>20}" for p in protocols)
    lines.append(f"{'mean':<12}{cells}   ± 95% over {len(finished)} windows")
    if len(found) > 1:
        lines.insert(0, f"{best['combination']}, best by the mean validation {select_by}")
    for entry in found:
        lines += [
            f"window={one['window']} {entry['combination']}  failed: {one['error']}"
            for one in entry["windows"]
            if one["error"]
        ]
    return "\n".join(lines)


def _cell(metrics: dict[str, float]) -> str:
    return f"{metrics[SHOWN]:.4f} ± {metrics.get(f'{SHOWN}_ci95', 0):.4f}"


def draw(root: Path, found: list[dict[str, Any]]) -> None:
    """Write windows.png: the metric of the best combination by window."""
    from ttt4rec_jax import plots  # matplotlib takes a second to import
    from ttt4rec_jax.plots.windows import WindowCurve

    best = found[0]
    finished = [one for one in best["windows"] if not one["error"]]
    curves = [
        WindowCurve(
            f"test {label(SHOWN)}, {PROTOCOL_TITLES[protocol]}",
            [one["window"] for one in finished],
            [one["test"][protocol][SHOWN] for one in finished],
            [one["test"][protocol].get(f"{SHOWN}_ci95", 0.0) for one in finished],
            mean[SHOWN],
            mean.get(f"{SHOWN}_ci95"),
        )
        for protocol, mean in best["mean"].items()
    ]
    plots.save(plots.by_window(curves, best["combination"]), root / "windows.png")
