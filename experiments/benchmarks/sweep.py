r"""Measure a sweep over initializer_range as one program, and compare with separate runs.

    python experiments/benchmarks/sweep.py --dataset=beauty --data_dir=DIR \
        [--epochs=10] [--json=FILE]

Wall times are those of whole processes on prepared data, including start and compilation. The
separate runs are measured twice: each with an empty compilation cache, and one after the other with
the cache that the first one fills.
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import command_line
from timing import machine, show

from data_prep.settings import option
from ttt4rec_jax.cli.command import DataFolders

MAIN = Path(__file__).parents[1] / "main.py"
RANGES = "0.001,0.002,0.005,0.01,0.02,0.05,0.1,0.2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepFlags(command_line.Figures, DataFolders):
    """The flags of sweep.py."""

    dataset: str = option("beauty", "Any data set that main.py accepts.")
    epochs: int = option(10, "Epochs of each run.", low=1)
    ranges: str = option(RANGES, "The values of main.py's --initializer_range.")
    separate: int = option(
        8, "Separate runs to measure; their time is scaled up to that of all.", low=1
    )


def run(folder: Path, *flags: str) -> float:
    """Return the wall seconds of main.py with these flags."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, str(MAIN), f"--run_dir={folder}", *flags],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main(flags: SweepFlags) -> None:
    ranges = flags.ranges.split(",")
    before = machine()
    measured = ranges[: flags.separate]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = [
            f"--dataset={flags.dataset}",
            f"--data_dir={flags.data_dir}",
            f"--cache_dir={flags.cache_dir}",
        ]
        shared = [*data, f"--epochs={flags.epochs}"]
        # prepares the data
        run(work / "warm", *data, "--model=popularity", f"--program_cache={work / 'c'}")
        times = {
            "together": run(
                work / "all",
                *shared,
                f"--initializer_range={flags.ranges}",
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
    show(rows, before, flags.json)


if __name__ == "__main__":
    sys.exit(command_line.run(__doc__, SweepFlags, main))
