"""Measure the wall time from the shell to main.py's first training step.

    python experiments/benchmarks/start.py --dataset=ml1m --data_dir=DIR \
        [--repeats=3] [--json=FILE] [-- more flags of main.py]

The compilation cache is empty in one half of the starts and filled in the other. The data are
prepared once before. Each start is a separate process, which ends after its first dispatch of
steps.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import machine, show

EXPERIMENTS = Path(__file__).parents[1]


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml1m")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", default="")
    parser.add_argument("flags", nargs="*", help="more flags of main.py, after --")
    args = parser.parse_args()
    before = machine()
    flags = [f"--dataset={args.dataset}", f"--data_dir={args.data_dir}", *args.flags]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        start(work, "prepare", flags)
        cold = [start(work, f"cold{n}", flags) for n in range(args.repeats)]
        warm = [start(work, "cold0", flags) for _ in range(args.repeats)]
    rows = [
        {
            "start": label,
            "median_seconds": float(np.median(times)),
            "fastest": min(times),
            "slowest": max(times),
        }
        for label, times in (("cold, empty program cache", cold), ("warm", warm))
    ]
    show(rows, before, args.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(float(sys.argv[2]), sys.argv[3:])
    main()
