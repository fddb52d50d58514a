"""The combinations of a sweep: their grouping into programs, plan, table and files. No JAX."""

import csv
import hashlib
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.files import read_json
from data_prep.settings import UserError, first_line
from ttt4rec_jax.config import Config, earlier, program
from ttt4rec_jax.metrics import HEADLINE_METRICS, PROTOCOLS
from ttt4rec_jax.runs import verified
from ttt4rec_jax.runs.folder import RunFolder, write_json, write_text
from ttt4rec_jax.runs.verified import json_bytes

PROGRAMS = "programs"
MEMBERS = "combinations.json"
PARAMETER_BYTES = 12  # in training: a float32 value and Adam's two moments


# --- groups of combinations that are trained by one program


def groups(
    combinations: dict[str, Config], started: Sequence[dict[str, Config]] = ()
) -> list[dict[str, Config]]:
    """Return the combinations that are trained together, one group per program.

    started: Groups that earlier processes started. A group that contains any of the combinations
        is resumed with all its original members, since the low-order bits of a run's result
        depend on the runs that it is stacked with.
    """
    resuming = [group for group in started if not group.keys().isdisjoint(combinations)]
    taken = {name for group in resuming for name in group}
    new: dict[Config, dict[str, Config]] = {}
    for name, config in combinations.items():
        if name not in taken:
            new.setdefault(program(config), {})[name] = config
    return [*resuming, *new.values()]


def group_folder(root: Path, names: list[str]) -> RunFolder:
    """Return the folder of a group's training state.

    It is the run's own folder for a single run, else a folder named by a hash of the members.
    """
    if names == [""]:
        return RunFolder(root)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return RunFolder(root / PROGRAMS / digest[:12])


def write_members(folder: RunFolder, names: list[str]) -> None:
    """Create a group's folder and write its members' names into it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.path / MEMBERS, names)


def started(root: Path, combinations: dict[str, Config]) -> list[dict[str, Config]]:
    """Return the groups of these combinations that were started in a sweep's folder."""
    groups = []
    for path in sorted((root / PROGRAMS).glob(f"*/{MEMBERS}")):
        try:
            names = read_json(path)
            if group_folder(root, names).path != path.parent:
                raise ValueError("other members than its folder is named after")
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: damaged ({first_line(error)}); copy the sweep's folder again"
            ) from error
        if combinations.keys() >= set(names):
            groups.append({name: combinations[name] for name in names})
    return groups


# --- the plan


class _Cost(NamedTuple):
    examples: int
    steps: int


def plan(
    programs: list[dict[str, Config]], sizes: list[tuple[int, int, int]], num_finished: int
) -> str:
    """Return lines that say what would be trained.

    The cost is given in examples and steps instead of seconds, which depend on the machine.

    Args:
        sizes: (examples per epoch, steps per epoch, parameters of a run) of each program.
        num_finished: The number of combinations that already have a result.
    """
    count = sum(map(len, programs))
    lines = [
        f"dry run   {count} to train in {_counted(len(programs), 'program')}, "
        f"{num_finished} already finished; nothing is trained"
    ]
    costs = []
    for number, (group, size) in enumerate(zip(programs, sizes, strict=True), 1):
        title = f"program {number} of {len(programs)}"
        lines += _program_lines(title, group, size)
        costs.append(_cost(group, size))
    examples = sum(cost.examples for cost in costs)
    steps = sum(cost.steps for cost in costs)
    lines.append(
        f"\ncost      {examples:,} examples in {steps:,} steps over all epochs and runs "
        "(the runs of a program take each step together)"
    )
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _cost(group: dict[str, Config], size: tuple[int, int, int]) -> _Cost:
    """Return the cost of a program's training, at most."""
    examples, steps, _ = size
    epochs = next(iter(group.values())).train.epochs if examples else 0
    return _Cost(len(group) * epochs * examples, epochs * steps)


def _program_lines(title: str, group: dict[str, Config], size: tuple[int, int, int]) -> list[str]:
    examples, steps, parameters = size
    config = next(iter(group.values()))
    epochs = _counted(config.train.epochs if examples else 0, "epoch")
    if config.train.patience:
        epochs = f"at most {epochs}, patience {config.train.patience}"
    megabytes = len(group) * parameters * PARAMETER_BYTES / 1e6
    return [
        f"\n{title}: {_counted(len(group), 'run')}, {config.model.model}, {epochs}",
        f"  {examples:,} examples and {steps:,} steps per epoch, {parameters:,} parameters per "
        f"run, {megabytes:,.1f} MB of parameters and optimizer state",
        *(f"    {name or '(a single run)'}" for name in group),
    ]


# --- the table


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
                f"test {p}/{m}": result["test"][p][m]
                for p in PROTOCOLS
                if p in result["test"]
                for m in HEADLINE_METRICS
            }
        rows.append(row)
    return sorted(rows, key=lambda row: -row.get(f"validation {select_by}", -1))


def without_seed(name: str) -> str:
    """Return a combination's name without its seed; "all" if only the seed is swept."""
    return ",".join(part for part in name.split(",") if not part.startswith("seed=")) or "all"


def over_seeds(rows: list[dict], select_by: str) -> list[dict]:
    """Return the mean and standard deviation (0 for one seed) of the validation metric over seeds.

    The best mean comes first.
    """
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
    """Return a line per combination with its validation metric, mean ± std if it has several seeds.

    Test metrics are given only for the combination chosen by validation.
    """
    means = over_seeds(rows, select_by)
    width = max(len(row["combination"]) for row in [*means, *rows])
    has_seeds = any(row["seeds"] > 1 for row in means)
    statistic = ", mean ± std over seeds" if has_seeds else ""
    lines = [f"{'combination':<{width}}  seeds  validation {select_by}{statistic}"]
    for index, row in enumerate(means):
        best = "  <- best" if index == 0 else ""
        value = f"{row['mean']:.4f}"
        if row["seeds"] > 1:
            value += f" ± {row['std']:.4f}"
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
    mean = f", mean over {len(runs)} seeds" if len(runs) > 1 else ""
    lines = [f"\ntest metrics of {chosen}, chosen by validation{mean}"]
    for protocol in [p for p in PROTOCOLS if all(f"test {p}/ndcg@10" in run for run in runs)]:
        means = {
            m: statistics.fmean(run[f"test {protocol}/{m}"] for run in runs)
            for m in HEADLINE_METRICS
        }
        lines.append(f"{protocol:<8} HR@10 {means['hit@10']:.4f}  NDCG@10 {means['ndcg@10']:.4f}")
    return lines


# --- files


def write(root: Path, flags: dict[str, list], rows: list[dict], select_by: str) -> None:
    """Write sweep.json and, if there are rows, sweep.csv."""
    content = {"flags": flags, "combinations": rows, "over_seeds": over_seeds(rows, select_by)}
    verified.write(root, {"sweep.json": json_bytes(content)})
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
        return earlier.flags(verified.load_json(root / "sweep.json")["flags"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{root / 'sweep.json'}: not the flags of a sweep ({first_line(error)}); "
            "copy its folder again"
        ) from error
