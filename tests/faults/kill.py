"""Kill runs at chosen and random moments, restart them, and compare them with undisturbed ones:

python tests/faults/kill.py --kills=30

The command is one and the same each time, with --resume. A kill is aimed at a moment, hits after a
random delay, and is counted where it fell, as the files and the output that the process left tell.
Exit code 0: all ended in the same bits.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from data_prep.settings import check, option
from ttt4rec_jax.cli.command import Command, Section, exit_code

ROOT = Path(__file__).parents[2]
TINY = ["--dataset=synthetic", "--dim=8", "--batch_size=512", "--resume"]
WORKLOADS = {
    "run": [*TINY, "--epochs=6"],
    "sweep": [*TINY, "--epochs=4", "--mini_batch_size=2,5", "--initializer_range=0.05,0.3"],
}
AIMS = (  # (workload, what is waited for, longest delay after it in seconds)
    ("run", "preparation", 0.3),
    ("run", "step", 2.0),
    ("run", "checkpoint", 0.1),
    ("sweep", "step", 4.0),
    ("run", "start", 6.0),
    ("run", "results", 0.5),
    ("sweep", "checkpoint", 0.1),
    ("run", "checkpoint", 0.0),
    ("sweep", "results", 0.3),
    ("run", "step", 1.0),
)
PLACES = (
    "before training",
    "in preparation",
    "in a step",
    "in a checkpoint",
    "in judging or results",
)
TIMEOUT_S = 300


class Bench:
    """A folder with caches of its own, and processes of main.py in it."""

    def __init__(self, folder: Path, environment: dict):
        self.folder = folder
        self.prepared = folder / "prepared"
        caches = {"TTT4REC_CACHE_DIR": str(self.prepared), "JAX_PLATFORMS": "cpu"}
        self.environment = {"XDG_CACHE_HOME": str(folder / "cache")} | environment | caches

    def start(self, workload: str, run: str) -> tuple[subprocess.Popen, Path]:
        """(the process, its log: all that it prints)."""
        log = self.folder / f"{run.replace('/', '-')}.log"
        command = [
            sys.executable,
            str(ROOT / "experiments" / "main.py"),
            *WORKLOADS[workload],
            f"--run_dir={run}",
        ]
        with open(log, "w") as file:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=file, stderr=file
            ), log

    def finish(self, workload: str, run: str) -> None:
        """Runs to the end. Raises RuntimeError with the log if it ends badly."""
        process, log = self.start(workload, run)
        if code := process.wait(TIMEOUT_S):
            raise RuntimeError(f"exit code {code}:\n{log.read_text()}")

    def kill(self, workload: str, run: str, aim: str, delay: float) -> str:
        """Start a run and kill it. Return where the kill fell, "" if the run ended before it."""
        if aim == "preparation":
            shutil.rmtree(self.prepared, ignore_errors=True)
        before = self.unfinished_checkpoints(run)
        process, log = self.start(workload, run)
        epochs = 4 if workload == "sweep" else 6
        reached = {
            "start": lambda: True,
            "preparation": lambda: any(self.prepared.glob(".*.part")),
            "step": lambda: "compiled in" in log.read_text(),
            "checkpoint": lambda: self.unfinished_checkpoints(run) - before,
            "results": lambda: (
                f"{epochs}/{epochs}  loss" in log.read_text()
                and not self.unfinished_checkpoints(run) - before
            ),
        }[aim]
        deadline = time.monotonic() + TIMEOUT_S
        while process.poll() is None and not reached():
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(log.read_text())
            time.sleep(0.001)
        if process.poll() is None:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"exit code {code}:\n{log.read_text()}")
        is_in_checkpoint = bool(self.unfinished_checkpoints(run) - before)
        return self.place(workload, is_in_checkpoint, log.read_text()) if code else ""

    def unfinished_checkpoints(self, run: str) -> set:
        """Checkpoints that are being written, or were when a process was killed: (path, inode)."""
        found = set()
        for above in ("", "*/", "*/*/"):  # a run's, a combination's, a program's
            for path in (self.folder / run).glob(f"{above}checkpoints/*/*.part"):
                with contextlib.suppress(FileNotFoundError):  # whole by now
                    found.add((path, path.stat().st_ino))
        return found

    def place(self, workload: str, is_in_checkpoint: bool, said: str) -> str:
        """Where a kill fell, by what it left."""
        if any(self.prepared.glob(".*.part")):
            for left in self.prepared.glob(".*.part"):
                shutil.rmtree(left)
            return "in preparation"
        if is_in_checkpoint:
            return "in a checkpoint"
        compiled = said.rfind("compiled in")
        epochs = re.findall(r"epoch +(\d+)/(\d+)  loss", said[compiled:]) if compiled >= 0 else []
        if compiled < 0:
            return "before training"
        members = 2 if workload == "sweep" else 1
        is_done = sum(epoch == last for epoch, last in epochs) >= members
        return "in judging or results" if is_done else "in a step"


def difference(a: Path, b: Path) -> str:
    """Return the first difference of two finished folders, times aside; "" if there is none."""
    names = [{p.parent.relative_to(x) for p in x.glob("**/result.json")} for x in (a, b)]
    if names[0] != names[1] or not names[0]:
        return f"results of {names[0]} and of {names[1]}"
    for name in sorted(names[0]):
        for what, read in (
            ("result.json", result),
            ("metrics.jsonl", metrics),
            ("test_ranks.parquet", ranks),
        ):
            if read(a / name / what) != read(b / name / what):
                return f"{name / what}"
    for name in sorted({p.relative_to(a) for p in a.glob("**/checkpoints/*")}):
        for x, y in itertools.zip_longest(arrays(a / name), arrays(b / name)):
            if x is None or y is None or x.dtype != y.dtype or x.tobytes() != y.tobytes():
                return f"arrays of {name}"
    return ""


def result(path: Path) -> dict:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}


def metrics(path: Path) -> list[dict]:
    lines = map(json.loads, path.read_text().splitlines())
    return [
        {key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines
    ]


def ranks(path: Path) -> list:
    return pl.read_parquet(path).rows()


def arrays(folder: Path) -> list[np.ndarray]:
    """The newest checkpoint's arrays, and its step."""
    import jax
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        tree = reader.restore(folder.resolve() / str(step) / "tree")
    return [np.array(step), *map(np.asarray, jax.tree.leaves(tree))]


def campaign(bench: Bench, aims, seed: int, log=print) -> collections.Counter:
    """Kill once for each aim, finish the runs, compare: return how many kills fell where.

    Raises AssertionError at the first difference.
    """
    rng = random.Random(seed)
    counts = collections.Counter()
    number = collections.Counter()
    for workload in dict.fromkeys(workload for workload, _, _ in aims):
        bench.finish(workload, f"{workload}-whole")

    def check(workload):
        run = f"{workload}-{number[workload]}"
        found = difference(bench.folder / f"{workload}-whole", bench.folder / run)
        assert not found, f"{run}: {found} differ from the undisturbed {workload}"
        shutil.rmtree(bench.folder / run)
        number[workload] += 1
        counts["ended in the same bits", workload] += 1

    begun = set()
    for workload, aim, longest in aims:
        place = ""
        delay = rng.uniform(0, longest)
        while not place:
            run = f"{workload}-{number[workload]}"
            place = bench.kill(workload, run, aim, delay)
            if not place:  # it ended first
                check(workload)
                delay /= 2
        begun.add(workload)
        counts[place, workload] += 1
        log(f"{workload}: aimed at {aim} + {delay:.2f} s, fell {place}")
    for workload in sorted(begun):
        bench.finish(workload, f"{workload}-{number[workload]}")
        check(workload)
    return counts


def table(counts: collections.Counter) -> str:
    """The counts as a Markdown table."""
    lines = ["| where kill -9 fell | single run | sweep |", "|---|---|---|"]
    lines += [
        f"| {place} | {counts[place, 'run']} | {counts[place, 'sweep']} |" for place in PLACES
    ]
    ended = "ended in the same bits"
    return "\n".join(
        [
            *lines,
            f"| runs and sweeps that {ended} as the undisturbed one "
            f"| {counts[ended, 'run']} | {counts[ended, 'sweep']} |",
        ]
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KillFlags:
    """The flags of kill.py."""

    kills: int = option(30, "How often a run or a sweep is killed.", low=1)
    seed: int = option(0, "Seed of the delays.", low=0)

    def __post_init__(self) -> None:
        check(self)


COMMAND = Command(__doc__, (Section("Flags:", KillFlags),))


def main(argv: list[str]) -> int:
    """Kill, compare and print the table. Returns the exit code, see command.exit_code."""
    return exit_code(lambda: _kill(COMMAND.parse(argv).settings(KillFlags)))


def _kill(asked: KillFlags) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    started = time.perf_counter()
    aims = list(itertools.islice(itertools.cycle(AIMS), asked.kills))
    with tempfile.TemporaryDirectory() as folder:
        counts = campaign(
            Bench(Path(folder), dict(os.environ)),
            aims,
            asked.seed,
            lambda line: print(line, flush=True),
        )
    print(f"\n{table(counts)}\n\n{asked.kills} kills, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
