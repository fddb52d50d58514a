"""The paper's experiments as a list of runs, each trained by main.py. Imports no JAX."""

import dataclasses
import functools
from pathlib import Path

from data_prep import atomic
from data_prep.files import read_json
from data_prep.settings import UserError
from ttt4rec_jax.cli import flags
from ttt4rec_jax.config import Config
from ttt4rec_jax.pipeline import presets
from ttt4rec_jax.pipeline.combinations import combine
from ttt4rec_jax.runs.folder import RunFolder, load_config, write_json

PARTS = ("table1", "figure2", "figure3")
DATASETS = ("beauty", "electronics", "ml1m")
OTHER_DATASETS = ("ml100k", "synthetic")  # allowed, though the paper does not use them
PAPER = ("din", "gru4rec", "sasrec", "comirec_sa", "comirec_dr", "ttt4rec")
EXTRAS = ("bert4rec", "ttt_mlp", "iclrec")
BASELINES = ("popularity", "itemknn")  # not trained, so that one run each is enough
FIGURE2 = ("comirec_sa", "comirec_dr", "ttt4rec")
TITLES = {
    "din": "DIN",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "comirec_sa": "ComiRec-SA",
    "comirec_dr": "ComiRec-DR",
    "ttt4rec": "TTT4Rec",
    "bert4rec": "BERT4Rec",
    "iclrec": "ICLRec",
    "ttt_mlp": "TTT4Rec with TTT-MLP",
    "popularity": "popularity",
    "itemknn": "ItemKNN",
}
MODEL_FLAGS = {"ttt_mlp": ["--model=ttt4rec", "--inner=mlp"]}
RANGES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.5)  # Figure 3's initializer_range
BATCHES = (1, 2, 5, 10)  # Figure 3's mini_batch_size
# epochs of --quick
QUICK_EPOCHS = 2
QUICK_EPOCHS_COMIREC = 4
QUICK_EPOCHS_GRID = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """The parts of the paper to reproduce, the data sets, the number of seeds, and the folder."""

    output: Path
    parts: tuple[str, ...] = PARTS
    datasets: tuple[str, ...] = DATASETS
    seeds: int = 3
    quick: bool = False

    def __post_init__(self) -> None:
        known = (*DATASETS, *OTHER_DATASETS)
        for dataset in self.datasets:
            if dataset not in known:
                raise UserError(f"--datasets: {dataset!r} is not one of {', '.join(known)}")
        if not 1 <= self.seeds <= 100:
            raise UserError(f"--seeds: {self.seeds} is out of range, expected 1 to 100")

    @property
    def figures_on(self) -> str:
        """The data set of Figures 2 and 3: Beauty as in the paper, or the first if it is absent."""
        return "beauty" if "beauty" in self.datasets else self.datasets[0]


@dataclasses.dataclass(frozen=True)
class Job:
    """One process of main.py, which trains one run or Figure 3's sweep.

    `name` is its folder under runs/; `flags` are those of main.py.
    """

    name: str
    flags: tuple[str, ...]

    @functools.cached_property
    def combinations(self) -> dict[str, Config]:
        """The settings of the job's runs, by subfolder of its folder ("" for a single run)."""
        lists, given = flags.parse(["main.py", *self.flags], "")
        return combine(presets.apply(lists, given))[0]

    def folders(self, output: Path) -> dict[str, RunFolder]:
        """Return the run folder of each combination."""
        return {name: RunFolder(output / "runs" / self.name / name) for name in self.combinations}

    def is_finished(self, output: Path) -> bool:
        """Return whether every combination has a result, or has failed within a finished sweep.

        Raise UserError if a folder holds a run of other settings (those of --quick or of another
        version), whose result must not be mistaken for this job's.
        """
        folders = self.folders(output)
        for name, folder in folders.items():
            if folder.config.exists() and load_config(folder.config) != self.combinations[name]:
                raise UserError(
                    f"--output: {folder.path} holds a run of other settings; name another folder"
                )
        return all(folder.result.exists() or folder.error.exists() for folder in folders.values())


def jobs(plan: Plan) -> list[Job]:
    """Return the plan's jobs in the order in which they are trained.

    A run that two parts need is listed once. The sweep comes first since it takes longest, so that
    parallel processes end at about the same time. Then all models are trained with one seed before
    the next, so that an interrupted reproduction lacks seeds rather than models.
    """
    planned = [grid(plan)] if "figure3" in plan.parts else []
    if "table1" in plan.parts:
        planned += [_run(plan, data, model, 0) for data in plan.datasets for model in BASELINES]
        planned += [
            _run(plan, dataset, model, seed)
            for seed in range(plan.seeds)
            for models in (PAPER, EXTRAS)
            for dataset in plan.datasets
            for model in models
        ]
    if "figure2" in plan.parts:
        planned += [
            _run(plan, plan.figures_on, model, seed)
            for seed in range(plan.seeds)
            for model in FIGURE2
        ]
    return list({job.name: job for job in planned}.values())


def _run(plan: Plan, dataset: str, model: str, seed: int) -> Job:
    """Return the job that trains one model on one data set with one seed."""
    chosen = [
        "--preset=paper",
        f"--dataset={dataset}",
        *MODEL_FLAGS.get(model, [f"--model={model}"]),
        f"--seed={seed}",
    ]
    if plan.quick and model not in BASELINES:
        epochs = QUICK_EPOCHS_COMIREC if model.startswith("comirec") else QUICK_EPOCHS
        chosen.append(f"--epochs={epochs}")
    return Job(f"{dataset}/{model}-{seed}", tuple(chosen))


def grid(plan: Plan) -> Job:
    """Return the sweep of Figure 3."""
    swept = {"initializer_range": RANGES, "mini_batch_size": BATCHES, "seed": range(plan.seeds)}
    chosen = [
        "--preset=paper",
        f"--dataset={plan.figures_on}",
        "--model=ttt4rec",
        "--ttt_stats",
        *(f"--{name}={','.join(map(str, values))}" for name, values in swept.items()),
    ]
    if plan.quick:
        chosen.append(f"--epochs={QUICK_EPOCHS_GRID}")
    return Job(f"{plan.figures_on}/figure3", tuple(chosen))


def save_plan(plan: Plan) -> None:
    """Write plan.json. Raise UserError if the folder cannot be written."""
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
        if found := atomic.foreign(plan.output):
            raise UserError(f"--output: nothing is written into a folder with {found}")
        content = dataclasses.asdict(plan)
        del content["output"]
        write_json(plan.output / "plan.json", content)
    except OSError as error:
        raise UserError(
            f"--output: {plan.output} cannot be written ({error.strerror}); name another folder"
        ) from error


def saved_plan(output: Path) -> dict:
    """Return the content of plan.json, {} if there is none. Raise UserError if it is damaged."""
    path = output / "plan.json"
    try:
        saved = read_json(path)
        return saved | {name: tuple(saved[name]) for name in ("parts", "datasets")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error!r}); delete it and give the flags again"
        ) from error
