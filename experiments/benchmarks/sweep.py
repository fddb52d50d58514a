"""Measure a sweep over initializer_range as one program, and compare with separate runs.

    python experiments/benchmarks/sweep.py --dataset=beauty --data_dir=DIR \
        [--epochs=10] [--json=FILE]

Wall times are those of whole processes on prepared data, including start and compilation. The
separate runs are measured twice: each with an empty compilation cache, and one after the other with
the cache that the first one fills.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import machine, show

MAIN = Path(__file__).parents[1] / "main.py"
RANGES = "0.001,0.002,0.005,0.01,0.02,0.05,0.1,0.2"


def run(folder: Path, *flags: str) -> float:
    """Return the wall seconds of main.py with these flags."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, str(MAIN), f"--run_dir={folder}", *flags],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="beauty")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--ranges", default=RANGES)
    parser.add_argument(
        "--separate",
        type=int,
        default=8,
        help="measure this many of the separate runs, and scale up",
    )
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    ranges = args.ranges.split(",")
    before = machine()
    measured = ranges[: args.separate]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shared = [
            f"--dataset={args.dataset}",
            f"--epochs={args.epochs}",
            f"--data_dir={args.data_dir}",
        ]
        # prepares the data
        run(
            work / "warm",
            f"--dataset={args.dataset}",
            "--model=popularity",
            f"--data_dir={args.data_dir}",
            f"--program_cache={work / 'c'}",
        )
        times = {
            "together": run(
                work / "all",
                *shared,
                f"--initializer_range={args.ranges}",
                f"--program_cache={work / 'a'}",
            )
        }
        for label, cache in (("separate, cold", "cold{}"), ("separate, cached", "cached")):
            each = [
                run(
                    work / f"{label}{r}",
                    *shared,
                    f"--initializer_range={r}",
                    f"--program_cache={work / cache.format(r)}",
                )
                for r in measured
            ]
            times[label] = sum(each) * len(ranges) / len(measured)
    rows = [
        {
            "runs": label,
            "seconds": t,
            "seconds_a_run": t / len(ranges),
            "together_over_this": times["together"] / t,
        }
        for label, t in times.items()
    ]
    show(rows, before, args.json)


if __name__ == "__main__":
    main()
