r"""Measure the wall time from the shell to main.py's first training step.

    python experiments/benchmarks/start.py --dataset=ml1m --data_dir=DIR \
        [--repeats=3] [--json=FILE] [-- more flags of main.py]

The compilation cache is empty in one half of the starts and filled in the other. The data are
prepared once before. Each start is a separate process, which ends after its first dispatch of
steps.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from command_line import Figures, run_with_main_flags
from timing import machine, show

from data_prep.settings import option
from ttt4rec_jax.cli.command import DataFolders

EXPERIMENTS = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartFlags(Figures, DataFolders):
    """The flags of start.py."""

    dataset: str = option("ml1m", "Any data set that main.py accepts.")
    repeats: int = option(3, "Starts with an empty cache, and with a filled one.", low=1)


def child(began: float, argv: list[str]) -> None:
    """Run main.py until its first step, print the seconds since `began` (time.time), and exit."""
    sys.path.insert(0, str(EXPERIMENTS))
    import main

    from ttt4rec_jax.training import fit

    def first_step(dispatch) -> None:  # called when the steps before a dispatch are finished
        if dispatch.first:
            print(f"\nfirst step {time.time() - began:.3f}", flush=True)
            os._exit(0)

    fit.fit = functools.partial(fit.fit, on_dispatch=first_step)
    sys.exit(main.main(["main.py", *argv]))


def start(work: Path, cache: str, flags: list[str]) -> float:
    """Return the wall seconds of one start."""
    run_dir = tempfile.mkdtemp(dir=work)
    argv = [f"--run_dir={run_dir}", f"--program_cache={work / cache}", *flags]
    command = [sys.executable, __file__, "--child", str(time.time()), *argv]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.rsplit("first step ", 1)[1])


def measure(work: Path, main_flags: list[str], repeats: int) -> list[dict]:
    """Return a row for starts with an empty cache, and one for starts with a filled one.

    work: an empty folder for runs and caches. This process uses no device, which the processes that
    it starts may need for themselves.
    """
    start(work, "prepare", main_flags)
    cold = [start(work, f"cold{n}", main_flags) for n in range(repeats)]
    warm = [start(work, "cold0", main_flags) for _ in range(repeats)]
    return [
        {
            "start": label,
            "median_seconds": float(np.median(times)),
            "fastest": min(times),
            "slowest": max(times),
        }
        for label, times in (("cold, empty program cache", cold), ("warm", warm))
    ]


def main(flags: StartFlags, more_flags: list[str]) -> None:
    before = machine()
    main_flags = [
        f"--dataset={flags.dataset}",
        f"--data_dir={flags.data_dir}",
        f"--cache_dir={flags.cache_dir}",
        *more_flags,
    ]
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name), main_flags, flags.repeats)
    show(rows, before, flags.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(float(sys.argv[2]), sys.argv[3:])
    sys.exit(run_with_main_flags(__doc__, StartFlags, main))
