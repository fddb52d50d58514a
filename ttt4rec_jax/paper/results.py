"""The finished runs of a plan, grouped as the report's parts and the claims need them."""

from typing import Any, NamedTuple

from data_prep.settings import UserError
from ttt4rec_jax.paper import driver, ledger
from ttt4rec_jax.paper.jobs import BASELINES, EXTRAS, PAPER, Plan, grid, jobs
from ttt4rec_jax.paper.ledger import Trained

GridPoint = tuple[float, int]  # initializer_range, mini_batch_size
Grid = dict[GridPoint, list[Trained]]  # the runs of each point, one per seed
ByModel = dict[str, list[Trained]]  # the runs of each model, one per seed


class Results(NamedTuple):
    """What results.jsonl has of a plan.

    runs: {job: its runs}. lines: the lines themselves. missing: {job: why runs have no result}.
    """

    runs: dict[str, list[Trained]]
    lines: list[dict[str, Any]]
    missing: dict[str, str]


def collect(plan: Plan) -> Results:
    """Read the results of the plan's jobs, with those of finished folders that it lacks.

    Raise UserError if results.jsonl is damaged, of other settings, or of different data.
    """
    left = driver.unfinished(plan)
    planned = {job.name: job for job in jobs(plan)}
    lines = [line for line in ledger.lines(plan.output) if line["job"] in planned]
    _check_same_data(plan, lines)
    results = Results({}, lines, {})
    for line in lines:
        seeds = set(planned[line["job"]].seeds)
        own = results.runs.setdefault(line["job"], [])
        own += [run for run in ledger.trained(line) if run.seed in seeds]
        own.sort(key=lambda run: run.seed)
        if reasons := ledger.failed(line):
            results.missing[line["job"]] = f"failed: {'; '.join(reasons)}"
    for job in left:
        listed = ", ".join(map(str, job.seeds))
        results.missing[job.name] = f"{driver.failure(job, plan.output)} (seeds {listed})"
    return results


def _check_same_data(plan: Plan, lines: list[dict[str, Any]]) -> None:
    """Raise UserError if the runs on a data set were trained on different data."""
    first: dict[str, dict[str, Any]] = {}
    for line in lines:
        if not line["dataset"]:
            continue  # every run of it failed
        name = line["job"].split("/")[1]
        other = first.setdefault(name, line)
        hashes = [entry["dataset"]["sha256"] for entry in (other, line)]
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{plan.output / ledger.FILE}: {other['job']} and {line['job']} were trained on "
                f"different data, sha256 {hashes[0][:16]} and {hashes[1][:16]}; delete the lines "
                "of the data that you do not mean"
            )


def table1_runs(plan: Plan, results: Results, preset: str) -> dict[str, ByModel]:
    """Return {dataset: {model: its runs}} of Table 1 under a preset."""
    models = (*PAPER, *(EXTRAS if preset == "fair" else ()))
    by_dataset: dict[str, ByModel] = {}
    for dataset in plan.datasets:
        by_model = {m: results.runs.get(f"{preset}/{dataset}/{m}", []) for m in models}
        baselines = {m: results.runs.get(f"{plan.presets[0]}/{dataset}/{m}", []) for m in BASELINES}
        by_dataset[dataset] = by_model | baselines
    return by_dataset


def figure3_grid(plan: Plan, results: Results, preset: str) -> Grid:
    """Return the finished runs of Figure 3's grid under a preset."""
    points: Grid = {}
    for job in grid(plan, preset):
        for run in results.runs.get(job.name, []):
            points.setdefault((run.initializer_range, run.mini_batch_size), []).append(run)
    return points


def grid_size(plan: Plan, preset: str) -> int:
    """Return the number of runs in Figure 3's complete grid."""
    return sum(len(job.combinations) for job in grid(plan, preset))


def count_runs(points: Grid) -> int:
    """Return the number of runs in a grid."""
    return sum(map(len, points.values()))


def scores(runs: list[Trained]) -> list[float]:
    """Return test NDCG@5 among sampled candidates, by seed."""
    return [run.score for run in runs]
