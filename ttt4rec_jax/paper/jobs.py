"""The paper's experiments as a list of jobs, each a process of the command line. Imports no JAX."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
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
PRESETS = ("fair", "authors")  # the settings under which everything is trained
DATASETS = ("beauty", "electronics", "ml1m")
OTHER_DATASETS = ("ml100k", "synthetic")  # allowed, though the paper does not use them
SEEDS = {"beauty": 5}  # the number of seeds if --seeds is not given
OTHER_SEEDS = 3
PAPER = ("din", "gru4rec", "sasrec", "comirec_sa", "comirec_dr", "ttt4rec")
EXTRAS = ("comirec_dr_plain", "bert4rec", "ttt_mlp", "iclrec")  # trained under "fair" alone
BASELINES = ("popularity", "itemknn")  # not trained, so that one run each is enough
FIGURE2 = ("comirec_sa", "comirec_dr", "ttt4rec")
TITLES = {
    "din": "DIN",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "comirec_sa": "ComiRec-SA",
    "comirec_dr": "ComiRec-DR",
    "ttt4rec": "TTT4Rec",
    "comirec_dr_plain": "ComiRec-DR without target tower",
    "bert4rec": "BERT4Rec",
    "iclrec": "ICLRec",
    "ttt_mlp": "TTT4Rec with TTT-MLP",
    "popularity": "popularity",
    "itemknn": "ItemKNN",
}
MODEL_FLAGS = {
    "ttt_mlp": ("--model=ttt4rec", "--inner=mlp"),
    "comirec_dr_plain": ("--model=comirec_dr", "--target_tower=none"),
    # it scores pairs, and would take longer to rank the full catalogue than to train
    "din": ("--model=din", "--nofull_catalogue"),
}
# Figure 3's initializer_range: the paper's, and smaller ones where W_0 and the gate keep theirs
RANGES = {
    "fair": (0.001, 0.01, 0.02, 0.05, 0.1, 0.5),
    "authors": (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.5),
}
BATCHES = (1, 2, 5, 10)  # Figure 3's mini_batch_size
# epochs of --quick
QUICK_EPOCHS = 2
QUICK_EPOCHS_COMIREC = 4
QUICK_EPOCHS_GRID = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to reproduce: parts of the paper, presets, data sets, seeds; and the folder.

    seeds: the number of seeds of each model; 0: SEEDS, which depends on the data set.
    """

    output: Path
    parts: tuple[str, ...] = PARTS
    presets: tuple[str, ...] = PRESETS
    datasets: tuple[str, ...] = DATASETS
    seeds: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        for preset in self.presets:
            if preset not in PRESETS:
                raise UserError(f"--presets: {preset!r} is not one of {', '.join(PRESETS)}")
        known = (*DATASETS, *OTHER_DATASETS)
        for dataset in self.datasets:
            if dataset not in known:
                raise UserError(f"--datasets: {dataset!r} is not one of {', '.join(known)}")
        if not 0 <= self.seeds <= 100:
            raise UserError(f"--seeds: {self.seeds} is out of range, expected 0 to 100")

    @property
    def figures_on(self) -> str:
        """The data set of Figures 2 and 3: Beauty as in the paper, or the first if it is absent."""
        return "beauty" if "beauty" in self.datasets else self.datasets[0]

    def seeds_on(self, dataset: str) -> range:
        """Return the seeds with which the models are trained on a data set."""
        return range(self.seeds or SEEDS.get(dataset, OTHER_SEEDS))


@dataclasses.dataclass(frozen=True)
class Job:
    """One process, which trains some settings with several seeds as one sweep.

    name: what is trained, as in fair/beauty/sasrec. settings: the flags except --seed.
    """

    name: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of the process."""
        return (*self.settings, f"--seed={','.join(map(str, self.seeds))}")

    @property
    def folder(self) -> str:
        """The job's folder under runs/."""
        return f"{self.name}/seeds={self.seeds[0]}-{self.seeds[-1]}"

    @functools.cached_property
    def combinations(self) -> dict[str, Config]:
        """The settings of the job's runs, by subfolder of its folder ("" for a single run)."""
        lists, given = flags.parse(["sweep", *self.flags], "")
        return combine(presets.apply(lists, given))[0]

    def folders(self, output: Path) -> dict[str, RunFolder]:
        """Return the run folder of each combination."""
        return {name: RunFolder(output / "runs" / self.folder / name) for name in self.combinations}

    def is_finished(self, output: Path) -> bool:
        """Return whether every combination has a result, or has failed within a finished sweep.

        Raise UserError if a folder holds a run of other settings (those of another version), whose
        result must not be mistaken for this job's.
        """
        folders = self.folders(output)
        for name, folder in folders.items():
            if folder.config.exists() and load_config(folder.config) != self.combinations[name]:
                raise UserError(
                    f"--output: {folder.path} holds a run of other settings; name another folder"
                )
        return all(folder.result.exists() or folder.error.exists() for folder in folders.values())


def jobs(plan: Plan) -> list[Job]:
    """Return the plan's jobs in the order in which they are trained; none is listed twice."""
    planned = []
    if "table1" in plan.parts:
        first = plan.presets[0]
        for dataset in plan.datasets:
            planned += [_model(plan, first, dataset, model) for model in BASELINES]
            planned += [_model(plan, preset, dataset, m) for preset in plan.presets for m in PAPER]
    if "figure2" in plan.parts:
        on = plan.figures_on
        planned += [_model(plan, preset, on, model) for preset in plan.presets for model in FIGURE2]
    if "figure3" in plan.parts:
        planned += [job for preset in plan.presets for job in grid(plan, preset)]
    if "table1" in plan.parts and "fair" in plan.presets:
        planned += [_model(plan, "fair", data, m) for data in plan.datasets for m in EXTRAS]
    return list({job.name: job for job in planned}.values())


def _model(plan: Plan, preset: str, dataset: str, model: str) -> Job:
    """Return the job that trains one model on one data set."""
    own = MODEL_FLAGS.get(model, (f"--model={model}",))
    settings: tuple[str, ...] = (f"--preset={preset}", f"--dataset={dataset}", *own)
    if plan.quick and model not in BASELINES:
        epochs = QUICK_EPOCHS_COMIREC if model.startswith("comirec") else QUICK_EPOCHS
        settings += (f"--epochs={epochs}",)
    seeds = range(1) if model in BASELINES else plan.seeds_on(dataset)
    return Job(f"{preset}/{dataset}/{model}", settings, tuple(seeds))


def grid(plan: Plan, preset: str) -> list[Job]:
    """Return the sweeps of Figure 3, one for each mini_batch_size, each a program of its own."""
    settings: tuple[str, ...] = (
        f"--preset={preset}",
        f"--dataset={plan.figures_on}",
        "--model=ttt4rec",
        "--ttt_stats",
        f"--initializer_range={','.join(map(str, RANGES[preset]))}",
    )
    if plan.quick:
        settings += (f"--epochs={QUICK_EPOCHS_GRID}",)
    return [
        Job(
            f"{preset}/{plan.figures_on}/figure3-{size}",
            (*settings, f"--mini_batch_size={size}"),
            tuple(plan.seeds_on(plan.figures_on)),
        )
        for size in BATCHES
    ]


def remaining(planned: Iterable[Job], lines: Sequence[dict]) -> list[Job]:
    """Return the jobs with the seeds for which results.jsonl has no line.

    Raise UserError if it has lines of other settings.
    """
    jobs_left = []
    for job in planned:
        own = [line for line in lines if line["job"] == job.name]
        for line in own:
            if tuple(line["settings"]) != job.settings:
                raise UserError(
                    f"--output: results.jsonl has {job.name} with {' '.join(line['settings'])}, "
                    f"expected {' '.join(job.settings)}; name another folder"
                )
        done = {run["seed"] for line in own for run in line["runs"]}
        seeds = tuple(seed for seed in job.seeds if seed not in done)
        if seeds:
            jobs_left.append(dataclasses.replace(job, seeds=seeds))
    return jobs_left


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
        return saved | {name: tuple(saved[name]) for name in ("parts", "presets", "datasets")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error!r}); delete it and give the flags again"
        ) from error
