"""Measure time and peak memory with a large data set: generate, prepare, train part of an epoch.

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

import argparse
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
STAGES = ("generate", "prepare", "train")
GENERATE = Path(__file__).with_name("large_clicks.py")
SAMPLED_S = 0.5
SIGN = "the first dispatch is over"
BYTES = 1 if platform.system() == "Darwin" else 1024  # per unit of ru_maxrss
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


class Watched(NamedTuple):
    """The output, exit code, times and memory of a finished process.

    sign_seconds: the time until it wrote SIGN, None if it did not.
    """

    output: str
    code: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    anonymous_mb: float
    sign_seconds: float | None


def watch(command: list[str], seconds_more: float = 0) -> Watched:
    """Run a command to its end; interrupt it (SIGINT) `seconds_more` after it writes SIGN."""
    began = time.perf_counter()
    output = b""
    anonymous = 0.0
    sign_seconds = None
    is_asked = False
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    pipe = process.stdout.fileno()
    while True:
        is_ready = select.select([pipe], [], [], SAMPLED_S)[0]
        now = time.perf_counter() - began
        anonymous = max(anonymous, anonymous_mb(process.pid))
        if is_ready:
            piece = os.read(pipe, 1 << 16)
            if not piece:
                break
            output += piece
            if sign_seconds is None and SIGN.encode() in output:
                sign_seconds = now
        if sign_seconds is not None and not is_asked and now >= sign_seconds + seconds_more:
            process.send_signal(signal.SIGINT)
            is_asked = True
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    cpu = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss * BYTES / 1e6
    return Watched(
        output.decode(errors="replace"),
        process.returncode,
        seconds,
        cpu,
        peak,
        anonymous,
        sign_seconds,
    )


def anonymous_mb(pid: int) -> float:
    """Return a process's resident memory that is not backed by files; 0 if it is unknown."""
    try:
        match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(match[1]) * 1024 / 1e6 if match else 0.0


def row(stage: str, done: Watched, **measured: float) -> dict:
    """Return a stage's row of the table. measured: values that only training measures."""
    trained = {"first_step_s": "", "steps": "", "examples_per_s": ""} | measured
    memory = {"peak_mb": round(done.peak_mb), "anonymous_mb": round(done.anonymous_mb)}
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else ""
    seconds = {"seconds": round(done.seconds, 1), "cpu_seconds": round(done.cpu_seconds, 1)}
    return {"stage": stage} | seconds | memory | trained | {"load": load}


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
    done = watch([*command, *flags], seconds)
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interactions", type=int, default=100_000_000)
    parser.add_argument("--work", type=Path, help="folder for everything that is written")
    parser.add_argument(
        "--stages", default=",".join(STAGES), help="stages to run; the others' results must exist"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="training time after the first dispatch"
    )
    parser.add_argument("--data_placement", default="host", help="the flag of main.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="")
    parser.add_argument("flags", nargs="*", help="more flags of main.py, after --")
    args = parser.parse_args()
    if not args.work:
        parser.error(
            "--work: name a folder with room for the clicks and the prepared data, about 40 bytes "
            "per click"
        )
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"clicks-{args.interactions}.parquet"
    cache = work / "cache"
    flags = [
        "--model=ttt4rec",
        "--targets=every",
        "--loss=bce",
        "--max_len=50",
        "--sparse_embeddings",
        *args.flags,
    ]
    if args.data_placement:
        flags.insert(0, f"--data_placement={args.data_placement}")
    makers = {
        "generate": lambda: generated(path, args.interactions, args.seed),
        "prepare": lambda: prepared(path, cache),
        "train": lambda: trained(
            path, cache, work / f"run-{args.interactions}", args.seconds, flags
        ),
    }
    rows = []
    for stage in args.stages.split(","):
        rows.append(makers[stage]())
        print(rows[-1], flush=True)
    from timing import machine, show  # imports JAX, as above

    show(rows, machine(), args.json)


if __name__ == "__main__":
    main()
