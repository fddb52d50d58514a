"""A sweep's combinations: grouped into programs, planned, tabulated, saved. Imports no JAX."""

import csv
import hashlib
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ttt4rec_jax.config import Config, earlier, program
from ttt4rec_jax.metrics import HEADLINE_METRICS, PROTOCOLS
from ttt4rec_jax.runs.folder import RunFolder, write_json, write_text

PROGRAMS = "programs"
MEMBERS = "combinations.json"
PARAMETER_BYTES = 12  # in training: a float32 value and Adam's two moments


# Groups of combinations that one program trains


def groups(
    combinations: dict[str, Config], started: Sequence[dict[str, Config]] = ()
) -> list[dict[str, Config]]:
    """Return the combinations that are trained together, one group per program.

    started: Groups that earlier processes started. One that holds any of the combinations is
        resumed with all its original members: stacked with other runs, the low-order bits of a
        run's result differ.
    """
    resuming = [group for group in started if not group.keys().isdisjoint(combinations)]
    taken = {name for group in resuming for name in group}
    new: dict[Config, dict[str, Config]] = {}
    for name, config in combinations.items():
        if name not in taken:
            new.setdefault(program(config), {})[name] = config
    return [*resuming, *new.values()]


def group_folder(root: Path, names: list[str]) -> RunFolder:
    """Return where a group's training state is kept.

    It is a single run's own folder, or one named by a hash of the members' names.
    """
    if names == [""]:
        return RunFolder(root)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return RunFolder(root / PROGRAMS / digest[:12])


def write_members(folder: RunFolder, names: list[str]) -> None:
    """Make a group's folder and write its members' names into it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.path / MEMBERS, names)


def started(root: Path, combinations: dict[str, Config]) -> list[dict[str, Config]]:
    """Return the groups of these combinations that were started in a sweep's folder."""
    groups = []
    for path in sorted((root / PROGRAMS).glob(f"*/{MEMBERS}")):
        names = json.loads(path.read_text(encoding="utf-8"))
        if combinations.keys() >= set(names):
            groups.append({name: combinations[name] for name in names})
    return groups


# The plan


class _Cost(NamedTuple):
    examples: int
    steps: int


def plan(
    programs: list[dict[str, Config]], sizes: list[tuple[int, int, int]], num_finished: int
) -> str:
    """Return what would be trained, in lines.

    Cost is given in examples and steps, not in seconds: no machine's speed is assumed.

    Args:
        sizes: (examples per epoch, steps per epoch, parameters of a run) of each program.
        num_finished: How many combinations have a result already.
    """
    count = sum(map(len, programs))
    lines = [
        f"dry run   {count} to train in {len(programs)} programs, "
        f"{num_finished} finished already; nothing is trained"
    ]
    costs = []
    for number, (group, size) in enumerate(zip(programs, sizes, strict=True), 1):
        title = f"program {number} of {len(programs)}"
        lines += _program_lines(title, group, size)
        costs.append(_cost(group, size))
    examples = sum(cost.examples for cost in costs)
    steps = sum(cost.steps for cost in costs)
    lines.append(
        f"\ncost      {examples:,} examples seen in {steps:,} steps "
        "(examples x epochs x combinations; a step serves all of its program)"
    )
    return "\n".join(lines)


def _cost(group: dict[str, Config], size: tuple[int, int, int]) -> _Cost:
    """Return what a program's training costs at most."""
    examples, steps, _ = size
    epochs = next(iter(group.values())).train.epochs if examples else 0
    return _Cost(len(group) * epochs * examples, epochs * steps)


def _program_lines(title: str, group: dict[str, Config], size: tuple[int, int, int]) -> list[str]:
    examples, steps, parameters = size
    config = next(iter(group.values()))
    epochs = f"{config.train.epochs if examples else 0} epochs"
    if config.train.patience:
        epochs = f"at most {epochs}, patience {config.train.patience}"
    megabytes = len(group) * parameters * PARAMETER_BYTES / 1e6
    return [
        f"\n{title}: {len(group)} trained together, {config.model.model}, {epochs}",
        f"  {examples:,} examples, {steps:,} steps an epoch, {parameters:,} parameters a run, "
        f"{megabytes:,.0f} MB of parameters and moments",
        *(f"    {name or 'the one run'}" for name in group),
    ]


# The table


def rows(results: dict[str, dict], select_by: str) -> list[dict]:
    """Return a row for every combination, best validation metric first, failed ones last.

    results: {combination: the content of its result.json, or {"error": text}}.
    """
    protocol, metric = select_by.split("/")
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {"combination": name, "seed": "", "error": result.get("error", "")}
        if not row["error"]:
            row["seed"] = result["config"]["train"]["seed"]
            row[f"validation {select_by}"] = result["validation"][protocol][metric]
            row["best_epoch"] = result["best_epoch"]
            row |= {
                f"test {p}/{m}": result["test"][p][m] for p in PROTOCOLS for m in HEADLINE_METRICS
            }
        rows.append(row)
    return sorted(rows, key=lambda row: -row.get(f"validation {select_by}", -1))


def without_seed(name: str) -> str:
    """Return a combination's name without its seed."""
    return ",".join(part for part in name.split(",") if not part.startswith("seed=")) or "all"


def over_seeds(rows: list[dict], select_by: str) -> list[dict]:
    """Return the validation metric's mean and deviation over seeds, best mean first."""
    by_name: dict[str, list[float]] = {}
    for row in rows:
        if not row["error"]:
            values = by_name.setdefault(without_seed(row["combination"]), [])
            values.append(row[f"validation {select_by}"])
    means = [
        {
            "combination": name,
            "seeds": len(values),
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        }
        for name, values in by_name.items()
    ]
    return sorted(means, key=lambda row: -row["mean"])


def table(rows: list[dict], select_by: str) -> str:
    """Return the sweep in lines: every combination's validation metric over its seeds.

    Test metrics are given for the combination chosen by validation only.
    """
    means = over_seeds(rows, select_by)
    width = max(len(row["combination"]) for row in [*means, *rows])
    lines = [f"{'combination':<{width}}  seeds  validation {select_by}, mean ± std over seeds"]
    for index, row in enumerate(means):
        best = "  <- best" if index == 0 else ""
        value = f"{row['mean']:.4f} ± {row['std']:.4f}"
        lines.append(f"{row['combination']:<{width}}  {row['seeds']:>5}  {value}{best}")
    for row in rows:
        if row["error"]:
            lines.append(f"{row['combination']:<{width}}  failed: {row['error']}")
    if means:
        lines += _test_lines(rows, means[0]["combination"])
    return "\n".join(lines)


def _test_lines(rows: list[dict], chosen: str) -> list[str]:
    """Return the test metrics of a combination, averaged over its seeds, in lines."""
    runs = [r for r in rows if not r["error"] and without_seed(r["combination"]) == chosen]
    lines = [f"\ntest metrics of {chosen}, chosen by validation, mean over {len(runs)} seed(s)"]
    for protocol in PROTOCOLS:
        means = {
            m: statistics.fmean(run[f"test {protocol}/{m}"] for run in runs)
            for m in HEADLINE_METRICS
        }
        lines.append(f"{protocol:<8} HR@10 {means['hit@10']:.4f}  NDCG@10 {means['ndcg@10']:.4f}")
    return lines


# Files


def write(root: Path, flags: dict[str, list], rows: list[dict], select_by: str) -> None:
    """Write sweep.json and, if there are rows, sweep.csv."""
    content = {"flags": flags, "combinations": rows, "over_seeds": over_seeds(rows, select_by)}
    write_json(root / "sweep.json", content)
    if rows:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(root / "sweep.csv", text.getvalue())


def saved_flags(root: Path) -> dict[str, list] | None:
    """Return the flags of the sweep in a folder, None if the folder holds none."""
    try:
        return earlier.flags(json.loads((root / "sweep.json").read_text())["flags"])
    except (OSError, ValueError, KeyError):
        return None
