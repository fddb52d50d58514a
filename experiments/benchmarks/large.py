r"""Measure time and peak memory with a large data set: generate, prepare, train part of an epoch.

    python experiments/benchmarks/large.py --interactions=100000000 --work=DIR \
        [--seconds=60] [--json=FILE] [-- flags of main.py]

Each stage runs in a separate process, so that its peak memory can be measured. peak_mb is the
kernel's high-water mark of resident memory, including pages of mapped files, which the kernel drops
when memory is short. anonymous_mb is the memory that it cannot drop: the maximum of samples half a
second apart, which may miss a shorter peak. Training is interrupted --seconds after its first
dispatch of steps, as by Ctrl-C: it saves its state and ends. first_step_s is the time from the
start of the process to the end of that dispatch; examples_per_s is the rate from there to the end
of the last dispatch, while the evaluation's program is compiled, as in any run.

The clicks, the prepared folder and the run stay in --work until you delete them; --stages=train
uses those that exist.
"""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

from command_line import Figures, check_names, run_with_main_flags
from processes import Watched, load_average, watch

from data_prep.settings import UserError, option

STAGES = ("generate", "prepare", "train")
GENERATE = Path(__file__).with_name("large_clicks.py")
SIGN = "the first dispatch is over"
PREPARE = """
import sys
from data_prep.prepare import prepare
from data_prep.settings import DataConfig
print(prepare(DataConfig(dataset=sys.argv[1]), cache_dir=sys.argv[2]))
"""
TRAIN = f"""
import functools, sys, time
sys.path.insert(0, "experiments")
import main
from ttt4rec_jax.training import fit

ends = []

def note(dispatch):  # called when the steps before a dispatch are finished
    if dispatch.first:
        ends.append(time.perf_counter())
        if len(ends) == 1:
            print("{SIGN}", flush=True)

fit.fit = functools.partial(fit.fit, on_dispatch=note)
code = main.main(["experiments/main.py", *sys.argv[1:]])
print("trained for", ends[-1] - ends[0] if ends else 0, "s")
sys.exit(code)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LargeFlags(Figures):
    """The flags of large.py."""

    interactions: int = option(100_000_000, "Clicks to generate.", low=1)
    work: str = option(
        "",
        "Folder for everything that is written, with room for about 40 bytes a click (required).",
    )
    stages: str = option(",".join(STAGES), "Stages to run; what the others leave must be there.")
    seconds: float = option(60.0, "Seconds of training after its first dispatch of steps.", low=0)
    data_placement: str = option("host", "main.py's flag.")
    seed: int = option(0, "Seed of the clicks.", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.work:
            raise UserError("--work: missing; give --work=FOLDER, a folder to write to; see --help")
        check_names("stages", self.stages, STAGES)


def row(stage: str, done: Watched, **measured: float) -> dict:
    """Return a stage's row of the table. measured: values that only training measures."""
    trained = {"first_step_s": "", "steps": "", "examples_per_s": ""} | measured
    memory = {"peak_mb": round(done.peak_mb), "anonymous_mb": round(done.anonymous_mb)}
    seconds = {"seconds": round(done.seconds, 1), "cpu_seconds": round(done.cpu_seconds, 1)}
    return {"stage": stage} | seconds | memory | trained | {"load": load_average()}


def check(stage: str, done: Watched, code: int = 0) -> None:
    """Exit if a stage did not end with the expected exit code."""
    if done.code != code:
        raise SystemExit(f"{stage}: ended with {done.code}, expected {code}\n{done.output[-4000:]}")


def generated(path: Path, interactions: int, seed: int) -> dict:
    """Generate the clicks; return the stage's row."""
    command = [sys.executable, str(GENERATE), str(path), str(interactions), str(seed)]
    check("generate", done := watch(command))
    return row("generate", done)


def prepared(path: Path, cache: Path) -> dict:
    """Prepare from scratch, after deleting earlier prepared folders; return the stage's row."""
    for folder in cache.glob(f"{path.stem}-*"):
        shutil.rmtree(folder)
    check("prepare", done := watch([sys.executable, "-c", PREPARE, str(path), str(cache)]))
    return row("prepare", done)


def trained(path: Path, cache: Path, run_dir: Path, seconds: float, flags: list[str]) -> dict:
    """Train the first steps of an epoch; return the stage's row."""
    shutil.rmtree(run_dir, ignore_errors=True)
    command = [
        sys.executable,
        "-c",
        TRAIN,
        f"--dataset={path}",
        f"--cache_dir={cache}",
        f"--run_dir={run_dir}",
    ]
    done = watch([*command, *flags], SIGN, seconds)
    check("train", done, 130)
    (examples,) = numbers(r"([\d,]+) training examples per epoch", done.output)
    epoch, step, steps = numbers(r"stopped in epoch (\d+) after step (\d+) of (\d+)", done.output)
    if epoch > 1:
        raise SystemExit(
            f"train: an epoch of {steps:g} steps took less than {seconds:g} s; lower --seconds"
        )
    # imports JAX: not at the top, since a child process inherits its parent's peak memory
    from ttt4rec_jax.training.loop import FIRST_DISPATCH

    (trained_s,) = numbers(r"trained for (\S+) s", done.output)
    rate = (step - FIRST_DISPATCH) * examples / steps / max(trained_s, 1e-9)
    return row(
        "train",
        done,
        first_step_s=round(done.sign_seconds or 0.0, 1),
        steps=int(step),
        examples_per_s=round(rate),
    )


def numbers(pattern: str, output: str) -> list[float]:
    """Return the numbers in the groups of a pattern that a stage's output must contain."""
    match = re.search(pattern, output)
    if match is None:
        raise SystemExit(f"no {pattern!r} in the output:\n{output[-4000:]}")
    return [float(group.replace(",", "")) for group in match.groups()]


def main(flags: LargeFlags, more_flags: list[str]) -> None:
    work = Path(flags.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"clicks-{flags.interactions}.parquet"
    cache = work / "cache"
    main_flags = [
        f"--data_placement={flags.data_placement}",
        "--model=ttt4rec",
        "--targets=every",
        "--loss=bce",
        "--max_len=50",
        "--sparse_embeddings",
        *more_flags,
    ]
    makers = {
        "generate": lambda: generated(path, flags.interactions, flags.seed),
        "prepare": lambda: prepared(path, cache),
        "train": lambda: trained(
            path, cache, work / f"run-{flags.interactions}", flags.seconds, main_flags
        ),
    }
    rows = []
    for stage in flags.stages.split(","):
        rows.append(makers[stage]())
        print(rows[-1], flush=True)
    from timing import machine, show  # imports JAX, as above

    show(rows, machine(), flags.json)


if __name__ == "__main__":
    sys.exit(run_with_main_flags(__doc__, LargeFlags, main))
