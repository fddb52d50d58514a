"""results.jsonl: a line for each finished job, with the metrics of its runs. Imports no JAX.

The report is written from these lines alone: folders of runs may be deleted, or be on another
machine. A line has the job's name, its settings (flags), what all of its runs share (data set,
protocol, platform, machine, time), and its runs.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.settings import UserError
from ttt4rec_jax.metrics import PAPER_METRICS, USUAL_PROTOCOLS
from ttt4rec_jax.paper.jobs import Job
from ttt4rec_jax.runs.folder import RunFolder, write_text

FILE = "results.jsonl"
METRIC = "ndcg@5"  # the metric, among sampled candidates, by which claims are decided
PROTOCOL = "sampled"
DIGITS = 6  # of a metric
FIELDS = ("job", "settings", "seconds", "environment", "dataset", "protocol", "platform", "runs")


class Trained(NamedTuple):
    """One finished run. validation, test: {protocol: {metric: value}}, of the best epoch.

    epochs: validation NDCG@5 among sampled candidates after each epoch. epoch_seconds: training of
    one epoch, mean. inner: statistics of the inner learners at the best epoch, if recorded.
    """

    seed: int
    best_epoch: int
    validation: dict[str, dict[str, float]]
    test: dict[str, dict[str, float]]
    epochs: list[float]
    epoch_seconds: float
    initializer_range: float = 0.0
    mini_batch_size: int = 0
    inner: dict[str, float] | None = None

    @property
    def score(self) -> float:
        """Test NDCG@5 among sampled candidates, by which the claims are decided."""
        return self.test[PROTOCOL][METRIC]


def line_of(job: Job, output: Path, seconds: float, environment: dict) -> dict[str, Any]:
    """Return the line of a finished job. Raise UserError if one of its folders is damaged."""
    from ttt4rec_jax.runs.read import failure, read  # imports polars

    runs: list[dict] = []
    shared: dict[str, Any] = {"dataset": {}, "protocol": {}, "platform": ""}
    for name, folder in job.folders(output).items():
        config = job.combinations[name]
        model = config.model
        point = {
            "initializer_range": model.initializer_range,
            "mini_batch_size": model.mini_batch_size,
        }
        if "figure3" not in job.name:
            point = {}
        if not folder.result.exists():
            runs.append({"seed": config.train.seed, **point, "failed": failure(folder.path)})
            continue
        result = read(folder.path).result
        shared = {key: result[key] for key in shared}
        runs.append(_run(folder, result) | point)
    return {
        "job": job.name,
        "settings": list(job.settings),
        "seconds": round(seconds, 1),
        "environment": environment,
        **shared,
        "runs": runs,
    }


def _run(folder: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    from ttt4rec_jax import plots  # imports matplotlib
    from ttt4rec_jax.runs.read import history

    epochs = history(folder.path)
    times = [line["seconds"] for line in epochs]
    run = {
        "seed": result["config"]["train"]["seed"],
        "best_epoch": result["best_epoch"],
        "validation": _rounded(result["validation"]),
        "test": _rounded(result["test"]),
        "epochs": [round(line["validation"][PROTOCOL][METRIC], DIGITS) for line in epochs],
        "epoch_seconds": round(sum(times) / len(times), 3) if times else 0.0,
    }
    if "ttt_stats" in result:
        means = plots.inner_means(result["ttt_stats"])
        run["inner"] = {name: float(f"{value:.6g}") for name, value in means.items()}
    return run


def _rounded(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        protocol: {name: round(metrics[protocol][name], DIGITS) for name in PAPER_METRICS}
        for protocol in USUAL_PROTOCOLS
        if protocol in metrics
    }


def append(output: Path, line: dict[str, Any]) -> None:
    """Append a job's line to results.jsonl, which is replaced whole. Raise UserError."""
    path = output / FILE
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, f"{before}{json.dumps(line)}\n")


def lines(output: Path) -> list[dict[str, Any]]:
    """Return the lines of results.jsonl. Raise UserError for one that cannot be read."""
    path = output / FILE
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    found = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            if any(field not in line for field in FIELDS):
                raise ValueError("a field is missing")
            trained(line)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number}: not the result of a job ({error}); delete the line, and "
                "its job is collected or trained again"
            ) from error
        found.append(line)
    return found


def trained(line: dict[str, Any]) -> list[Trained]:
    """Return the runs of a line that have a result."""
    return [Trained(**run) for run in line["runs"] if "failed" not in run]


def failed(line: dict[str, Any]) -> list[str]:
    """Return why runs of a line have no result."""
    return [f"seed {run['seed']}: {run['failed']}" for run in line["runs"] if "failed" in run]
