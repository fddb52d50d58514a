"""The paper's experiments as a list of runs, each trained by main.py in a process of its own. Imports no JAX.

A process a run keeps memory bounded and an interruption clean. A finished run is kept, one begun is
resumed; a journal holds what each process took and where it ran.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from data_prep.settings import UserError
from ttt4rec_jax.cli import flags, presets
from ttt4rec_jax.config import Config
from ttt4rec_jax.runs.folder import RunFolder, load_config, write_json
from ttt4rec_jax.training.interrupt import Interrupted, StopRequest

PARTS = ("table1", "figure2", "figure3")
DATASETS = ("beauty", "electronics", "ml1m")
PAPER = ("din", "gru4rec", "sasrec", "comirec_sa", "comirec_dr", "ttt4rec")
EXTRAS = ("bert4rec", "ttt_mlp", "iclrec")
FLOORS = ("popularity", "itemknn")
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
RANGES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.5)
BATCHES = (1, 2, 5, 10)
QUICK_EPOCHS = 2
QUICK_COMIREC = 4
QUICK_GRID = 1
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "polars",
    "matplotlib",
    "ttt4rec_jax",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be reproduced, and where."""

    output: Path
    parts: tuple[str, ...] = PARTS
    datasets: tuple[str, ...] = DATASETS
    seeds: int = 3
    quick: bool = False

    def __post_init__(self):
        for dataset in self.datasets:
            if dataset not in (*DATASETS, "ml100k", "synthetic"):
                raise UserError(
                    f"--datasets: {dataset!r} is not one of {', '.join(DATASETS)}, ml100k, synthetic"
                )
        if not 1 <= self.seeds <= 100:
            raise UserError(f"--seeds: {self.seeds} is out of range, expected 1 to 100")

    @property
    def figures_on(self) -> str:
        """The data set of Figures 2 and 3: Beauty, as in the paper, unless it is not among those asked for."""
        return "beauty" if "beauty" in self.datasets else self.datasets[0]


@dataclasses.dataclass(frozen=True)
class Job:
    """One process of main.py: a run, or the sweep of Figure 3. name: its folder under runs/."""

    name: str
    flags: tuple[str, ...]

    @functools.cached_property
    def combinations(self) -> dict[str, Config]:
        """The settings that it trains, by the folder in its own ("" for a single run)."""
        lists, given = flags.parse(["main.py", *self.flags], "")
        return flags.settings(presets.apply(lists, given))[0]

    def folders(self, output: Path) -> dict[str, RunFolder]:
        return {name: RunFolder(output / "runs" / self.name / name) for name in self.combinations}

    def is_finished(self, output: Path) -> bool:
        """Whether each combination has a result, or has failed within a sweep that went on. Raises UserError.

        A result of other settings (--quick's, another version's) is never taken for it.
        """
        there = self.folders(output)
        for name, folder in there.items():
            if folder.config.exists() and load_config(folder.config) != self.combinations[name]:
                raise UserError(
                    f"--output: {folder.path} holds a run of other settings; name another folder"
                )
        return all(folder.result.exists() or folder.error.exists() for folder in there.values())


def jobs(plan: Plan) -> list[Job]:
    """Every run of the plan, in the order they are trained; a run that two parts need is there once."""

    def run(dataset, model, seed):
        chosen = [
            "--preset=paper",
            f"--dataset={dataset}",
            *MODEL_FLAGS.get(model, [f"--model={model}"]),
            f"--seed={seed}",
        ]
        if plan.quick and model not in FLOORS:
            chosen.append(
                f"--epochs={QUICK_COMIREC if model.startswith('comirec') else QUICK_EPOCHS}"
            )
        return Job(f"{dataset}/{model}-{seed}", tuple(chosen))

    found = (
        [grid(plan)] if "figure3" in plan.parts else []
    )  # the longest first: nothing waits for it at the end
    if "table1" in plan.parts:
        found += [run(dataset, model, 0) for dataset in plan.datasets for model in FLOORS]
        # a seed of everything before the next, so that what is cut off has few seeds rather than
        # few models
        for seed in range(plan.seeds):
            found += [
                run(dataset, m, seed)
                for group in (PAPER, EXTRAS)
                for dataset in plan.datasets
                for m in group
            ]
    if "figure2" in plan.parts:
        models = ("comirec_sa", "comirec_dr", "ttt4rec")
        found += [
            run(plan.figures_on, model, seed) for seed in range(plan.seeds) for model in models
        ]
    return list({job.name: job for job in found}.values())


def grid(plan: Plan) -> Job:
    """The sweep of Figure 3."""
    listed = {"initializer_range": RANGES, "mini_batch_size": BATCHES, "seed": range(plan.seeds)}
    swept = [f"--{name}={','.join(map(str, values))}" for name, values in listed.items()]
    epochs = [f"--epochs={QUICK_GRID}"] if plan.quick else []
    return Job(
        f"{plan.figures_on}/figure3",
        (
            "--preset=paper",
            f"--dataset={plan.figures_on}",
            "--model=ttt4rec",
            "--ttt_stats",
            *swept,
            *epochs,
        ),
    )


def environment() -> dict:
    """The machine, and the versions that results depend on."""

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware = f"{processor}, {cores} cores, {platform.system()} {platform.release()}"
    return {
        "hardware": hardware,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }


class Started(NamedTuple):
    """A process of main.py that is running. cores: those it was given, handed on when it ends; seconds by perf_counter."""

    job: Job
    process: subprocess.Popen
    cores: tuple[int, ...]
    since: float


def run_all(plan: Plan, main: Path, more_flags: list[str], at_once: int = 1, log=print) -> None:
    """Trains what is not finished; after one that fails the others go on. Raises Interrupted, UserError.

    main: main.py. at_once: so many processes at a time, each on its own share of the cores where
    the system can say so.
    """
    listed = jobs(plan)
    waiting = [job for job in listed if not job.is_finished(plan.output)]
    log(
        f"{len(listed)} runs, {len(listed) - len(waiting)} finished already; logs in {plan.output / 'logs'}"
    )
    here = environment()
    total = len(waiting)
    told = False
    free = shares(at_once)
    running = []
    with StopRequest() as stop:
        while running or (waiting and not stop.asked):
            while waiting and free and not stop.asked:
                job = waiting.pop(0)
                cores = free.pop(0)
                log(f"[{total - len(waiting)}/{total}] {job.name} ...")
                running.append(
                    Started(
                        job,
                        start(job, plan.output, main, more_flags, cores),
                        cores,
                        time.perf_counter(),
                    )
                )
            if stop.asked and not told:
                for one in running:
                    one.process.send_signal(signal.SIGINT)
                told = True
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.cores)
                code = one.process.returncode
                seconds = time.perf_counter() - one.since
                code = 130 if stop.asked and code else code  # however it ended once it was asked to
                line = {
                    "run": one.job.name,
                    "seconds": seconds,
                    "exit": code,
                    "at_once": at_once,
                    "environment": here,
                }
                with open(plan.output / "journal.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                end = (
                    "stopped"
                    if code == 130
                    else "finished"
                    if code == 0
                    else failure(one.job, plan.output)
                )
                log(f"    {one.job.name} {end}, {seconds:.0f} s")
            time.sleep(0.1)
    if stop.asked:
        raise Interrupted("stopped; what is finished is kept")


def shares(at_once: int) -> list[tuple[int, ...]]:
    """The cores of this process in as many shares as processes run at once; () where that cannot be set.

    One process that keeps several cores busy waits for the slowest of them at every operation:
    processes side by side do not.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    return (
        [tuple(cores[i::at_once]) for i in range(at_once)]
        if len(cores) >= at_once
        else [()] * at_once
    )


def start(
    job: Job, output: Path, main: Path, more_flags: list[str], cores: tuple[int, ...]
) -> subprocess.Popen:
    """main.py's process for a job, on some cores (all: ()); what it says goes into the job's log."""
    folder = output / "runs" / job.name
    log_file = log_path(job, output)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    begun = (folder / "config.json").exists() or (folder / "sweep.json").exists()
    command = [
        sys.executable,
        str(main),
        *job.flags,
        f"--run_dir={folder}",
        *["--resume"] * begun,
        *more_flags,
    ]
    own = os.sched_getaffinity(0) if cores else None
    with open(log_file, "a", encoding="utf-8") as text:
        if cores:
            os.sched_setaffinity(0, cores)  # a new process inherits it
        try:
            # a session of its own: Ctrl-C reaches this process alone, which hands it on just once
            # (a second would kill)
            return subprocess.Popen(command, stdout=text, stderr=text, start_new_session=True)
        finally:
            if cores:
                os.sched_setaffinity(0, own)


def log_path(job: Job, output: Path) -> Path:
    return output / "logs" / f"{job.name.replace('/', '-')}.log"


def failure(job: Job, output: Path) -> str:
    """Why a job has no result, by its log's last line: "failed: ..."; "missing" if it was not begun or cut off."""
    try:
        lines = (
            log_path(job, output).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        )
    except OSError:
        return "missing"
    last = lines[-1] if lines else ""
    return f"failed: {last.removeprefix('error: ')}" if "error" in last.lower() else "missing"


def save_plan(plan: Plan) -> None:
    """Writes plan.json. Raises UserError if the folder cannot be written."""
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
        content = dataclasses.asdict(plan)
        del content["output"]
        write_json(plan.output / "plan.json", content)
    except OSError as error:
        raise UserError(
            f"--output: {plan.output} cannot be written ({error.strerror}); name another folder"
        ) from error


def saved_plan(output: Path) -> dict:
    """What plan.json holds; nothing if there is none. Raises UserError if it is damaged."""
    path = output / "plan.json"
    try:
        saved = json.loads(path.read_text())
        return saved | {name: tuple(saved[name]) for name in ("parts", "datasets")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error!r}); delete it and give the flags again"
        ) from error


def journal(output: Path) -> list[dict]:
    """What each process took, a dict each; a line that was cut off is left out."""
    found = []
    try:
        text = (output / "journal.jsonl").read_text(encoding="utf-8")
    except OSError:
        return found
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
