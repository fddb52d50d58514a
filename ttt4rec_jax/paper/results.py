"""The finished runs of a plan, grouped as the report's parts and the claims need them."""

from typing import NamedTuple

from ttt4rec_jax.evaluation.compare import check_comparable
from ttt4rec_jax.metrics import PROTOCOLS
from ttt4rec_jax.paper.jobs import BASELINES, BATCHES, EXTRAS, FIGURE2, PAPER, RANGES, Plan, grid
from ttt4rec_jax.runs.read import Run

GridPoint = tuple[float, int]  # initializer_range, mini_batch_size
Grid = dict[GridPoint, dict[int, Run]]  # the runs of each point, by seed


class Results(NamedTuple):
    """The results of a plan's runs, by the name of their folder under runs/.

    runs: the finished ones. histories: the epochs (lines of metrics.jsonl) of every started run.
    missing: why the others have no result.
    """

    runs: dict[str, Run]
    histories: dict[str, list[dict]]
    missing: dict[str, str]


def table1_runs(plan: Plan, results: Results) -> dict[str, dict[str, list[Run]]]:
    """Return {dataset: {model: its finished runs, one per seed}} for Table 1.

    Raise UserError if the runs on a data set were not evaluated in the same way.
    """

    def seeds(dataset: str, model: str) -> list[Run]:
        names = [f"{dataset}/{model}-{seed}" for seed in range(plan.seeds)]
        return [results.runs[name] for name in names if name in results.runs]

    models = (*PAPER, *EXTRAS, *BASELINES)
    by_dataset = {
        dataset: {model: seeds(dataset, model) for model in models} for dataset in plan.datasets
    }
    for by_model in by_dataset.values():
        runs = [run for runs_of_model in by_model.values() for run in runs_of_model]
        if len(runs) > 1:
            check_comparable(runs, PROTOCOLS)
    return by_dataset


def figure2_histories(plan: Plan, results: Results) -> dict[str, list[list[dict]]]:
    """Return {model: the epochs of each seed that has finished one} for Figure 2."""

    def seeds(model: str) -> list[list[dict]]:
        names = [f"{plan.figures_on}/{model}-{seed}" for seed in range(plan.seeds)]
        return [results.histories[name] for name in names if results.histories.get(name)]

    return {model: seeds(model) for model in FIGURE2}


def figure3_grid(plan: Plan, results: Results) -> Grid:
    """Return the finished runs of Figure 3's grid."""
    job = grid(plan)
    points: Grid = {}
    for name in job.combinations:
        run = results.runs.get(f"{job.name}/{name}")
        if run is not None:
            model = run.config.model
            by_seed = points.setdefault((model.initializer_range, model.mini_batch_size), {})
            by_seed[run.config.train.seed] = run
    return points


def grid_size(plan: Plan) -> int:
    """Return the number of runs in Figure 3's complete grid."""
    return len(RANGES) * len(BATCHES) * plan.seeds


def count_runs(points: Grid) -> int:
    """Return the number of runs in a grid."""
    return sum(map(len, points.values()))
