"""A sweep's combinations, grouped into programs; its table and files. Imports no JAX."""

import csv
import hashlib
import io
import json
import statistics
from pathlib import Path

from ttt4rec_jax.config import Config, program
from ttt4rec_jax.run_folder import RunFolder, write_json, write_text

METRICS = ("hit@10", "ndcg@10")


def groups(combinations: dict[str, Config]) -> list[dict[str, Config]]:
    """The combinations that are trained together, as one program each."""
    found: dict[Config, dict[str, Config]] = {}
    for name, config in combinations.items():
        found.setdefault(program(config), {})[name] = config
    return list(found.values())


def group_folder(root: Path, names: list[str]) -> RunFolder:
    """Where a group's state is kept while it is trained: a single run's own folder, or one named by its members."""
    if names == [""]:
        return RunFolder(root)
    return RunFolder(root / "programs" / hashlib.sha256("\n".join(names).encode()).hexdigest()[:12])


def rows(results: dict[str, dict], select_by: str) -> list[dict]:
    """A row for every combination, best validation figure first, those that failed last.

    results: {name: a result.json's content, or {"error": text}}.
    """
    protocol, metric = select_by.split("/")
    found = []
    for name, result in results.items():
        row = {"combination": name, "seed": "", "error": result.get("error", "")}
        if not row["error"]:
            row["seed"] = result["config"]["train"]["seed"]
            row[f"validation {select_by}"] = result["validation"][protocol][metric]
            row["best_epoch"] = result["best_epoch"]
            row |= {f"test {p}/{m}": result["test"][p][m] for p in ("sampled", "full") for m in METRICS}
        found.append(row)
    return sorted(found, key=lambda row: -row.get(f"validation {select_by}", -1))


def without_seed(name: str) -> str:
    """A combination's name but for its seed."""
    return ",".join(part for part in name.split(",") if not part.startswith("seed=")) or "all"


def over_seeds(found: list[dict], select_by: str) -> list[dict]:
    """Mean and standard deviation over seeds of the validation figure, best mean first."""
    by_name: dict[str, list[float]] = {}
    for row in found:
        if not row["error"]:
            by_name.setdefault(without_seed(row["combination"]), []).append(row[f"validation {select_by}"])
    means = [
        {"combination": name, "seeds": len(v), "mean": statistics.fmean(v), "std": statistics.stdev(v) if len(v) > 1 else 0.0}
        for name, v in by_name.items()
    ]
    return sorted(means, key=lambda row: -row["mean"])


def table(found: list[dict], select_by: str) -> str:
    """The sweep in lines: each combination's validation figure over its seeds; test figures of the chosen one alone."""
    means = over_seeds(found, select_by)
    width = max(len(row["combination"]) for row in [*means, *found])
    lines = [f"{'combination':<{width}}  seeds  validation {select_by}, mean ± std over seeds"]
    for place, row in enumerate(means):
        best = "  <- best" if place == 0 else ""
        lines.append(f"{row['combination']:<{width}}  {row['seeds']:>5}  {row['mean']:.4f} ± {row['std']:.4f}{best}")
    lines += [f"{row['combination']:<{width}}  failed: {row['error']}" for row in found if row["error"]]
    if means:
        chosen = [r for r in found if not r["error"] and without_seed(r["combination"]) == means[0]["combination"]]
        lines.append(f"\ntest figures of {means[0]['combination']}, chosen by validation, mean over {len(chosen)} seed(s)")
        for protocol in ("sampled", "full"):
            figures = {m: statistics.fmean(row[f"test {protocol}/{m}"] for row in chosen) for m in METRICS}
            lines.append(f"{protocol:<8} HR@10 {figures['hit@10']:.4f}  NDCG@10 {figures['ndcg@10']:.4f}")
    return "\n".join(lines)


def write(root: Path, flags: dict[str, list], found: list[dict], select_by: str) -> None:
    """Writes sweep.json and sweep.csv."""
    write_json(root / "sweep.json", {"flags": flags, "combinations": found, "over_seeds": over_seeds(found, select_by)})
    if found:
        columns = list(dict.fromkeys(name for row in found for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        write_text(root / "sweep.csv", text.getvalue())


def saved_flags(root: Path) -> dict[str, list] | None:
    """The flags that the sweep in a folder was started with; None if the folder holds none."""
    try:
        return json.loads((root / "sweep.json").read_text())["flags"]
    except (OSError, ValueError, KeyError):
        return None
