"""Train a plan's jobs, each in a process of main.py, and keep a journal. Imports no JAX.

Separate processes keep memory bounded and make interruptions simple: a finished run is kept, and an
unfinished one is resumed by the next call.
"""

import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data_prep import atomic
from data_prep.settings import UserError
from ttt4rec_jax.paper import ledger
from ttt4rec_jax.paper.jobs import Job, Plan, jobs, remaining
from ttt4rec_jax.training.interrupt import Interrupted, StopRequest

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
STOPPED = 130  # exit code of a process that was interrupted
POLL_S = 0.1


class RunningJob(NamedTuple):
    """A process of main.py, the cores that it was given, and when it started (perf_counter)."""

    job: Job
    process: subprocess.Popen
    cores: tuple[int, ...]
    started: float


def run_all(
    plan: Plan,
    main: list[str],
    more_flags: list[str],
    at_once: int = 1,
    log: Callable[[str], object] = print,
) -> None:
    """Train the jobs that results.jsonl lacks; a failed job does not stop the others.

    main: the words that call the command; the job's flags and `more_flags` follow. at_once: the
    number of parallel processes, each on its own share of the cores if the system supports that.
    Raise Interrupted after SIGINT or SIGTERM, UserError if a folder holds runs of other settings.
    """
    planned = jobs(plan)
    waiting = unfinished(plan)
    total = len(waiting)
    logs = plan.output / "logs"
    log(f"{len(planned)} jobs, {len(planned) - total} already finished; logs in {logs}")
    machine = environment()
    free = core_shares(at_once)
    running: list[RunningJob] = []
    stop_sent = False
    with StopRequest() as stop:
        while running or (waiting and not stop.asked):
            while waiting and free and not stop.asked:
                job = waiting.pop(0)
                cores = free.pop(0)
                log(f"[{total - len(waiting)}/{total}] {job.name} ...")
                process = start(job, plan.output, main, more_flags, cores)
                running.append(RunningJob(job, process, cores, time.perf_counter()))
            if stop.asked and not stop_sent:
                for child in running:
                    child.process.send_signal(signal.SIGINT)
                stop_sent = True
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                free.append(child.cores)
                code = child.process.returncode
                if stop.asked and code:
                    code = STOPPED  # it ended because of the request, whatever its exit code
                seconds = time.perf_counter() - child.started
                entry = {"run": child.job.folder, "seconds": seconds, "exit": code}
                append_journal(plan.output, entry | {"at_once": at_once, "environment": machine})
                if code != STOPPED:
                    collect([child.job], plan.output)
                log(
                    f"    {child.job.name} {outcome(child.job, plan.output, code)}, {seconds:.0f} s"
                )
            time.sleep(POLL_S)
    if stop.asked:
        raise Interrupted("stopped; finished runs are kept")


def unfinished(plan: Plan) -> list[Job]:
    """Return the jobs to train, after finished folders have been added to results.jsonl.

    Raise UserError if results.jsonl or a folder holds results of other settings.
    """
    left = remaining(jobs(plan), ledger.lines(plan.output))
    collect(left, plan.output)
    return remaining(jobs(plan), ledger.lines(plan.output))


def collect(finished: list[Job], output: Path) -> None:
    """Append the results of those jobs that are finished to results.jsonl.

    A job with a damaged folder is left out: it has no result. Raise UserError if a folder holds a
    run of other settings.
    """
    entries = journal(output)
    for job in finished:
        if not job.is_finished(output):
            continue
        own = [entry for entry in entries if entry["run"] == job.folder]
        machine = own[-1]["environment"] if own else {}
        seconds = sum(entry["seconds"] for entry in own)
        try:
            line = ledger.line_of(job, output, seconds, machine)
        except UserError:
            continue
        ledger.append(output, line)


def core_shares(at_once: int) -> list[tuple[int, ...]]:
    """Divide this process's cores among `at_once` processes; () means that a process uses all.

    A process that uses several cores waits for the slowest of them at every operation, whereas
    separate processes do not wait for each other.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) < at_once:
        return [()] * at_once
    return [tuple(cores[i::at_once]) for i in range(at_once)]


def start(
    job: Job, output: Path, main: list[str], more_flags: list[str], cores: tuple[int, ...]
) -> subprocess.Popen:
    """Start main.py for a job on the given cores (all if ()); its output goes to the job's log."""
    folder = output / "runs" / job.folder
    log_file = log_path(job, output)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    command = [*main, *job.flags, f"--run_dir={folder}"]
    if (folder / "config.json").exists() or (folder / "sweep.json").exists():
        command.append("--resume")
    command += more_flags
    all_cores = os.sched_getaffinity(0) if cores else set()
    with open(log_file, "a", encoding="utf-8", opener=atomic.no_follow) as text:
        if cores:
            os.sched_setaffinity(0, cores)  # the new process inherits it
        try:
            # In a new session, so that only this process receives Ctrl-C and passes it on once: a
            # second signal would kill the child.
            return subprocess.Popen(command, stdout=text, stderr=text, start_new_session=True)
        finally:
            if cores:
                os.sched_setaffinity(0, all_cores)


def outcome(job: Job, output: Path, code: int) -> str:
    """Return how a job's process ended, for the log."""
    if code == STOPPED:
        return "stopped"
    return "finished" if code == 0 else failure(job, output)


def log_path(job: Job, output: Path) -> Path:
    """Return the path of a job's log."""
    return output / "logs" / f"{job.folder.replace('/', '-')}.log"


def failure(job: Job, output: Path) -> str:
    """Return why a job has no result, from the last line of its log.

    "failed: ..." if that is an error; "missing" if the job was not started or was interrupted.
    """
    try:
        text = log_path(job, output).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "missing"
    lines = text.strip().splitlines()
    last = lines[-1] if lines else ""
    return f"failed: {last.removeprefix('error: ')}" if "error" in last.lower() else "missing"


def append_journal(output: Path, entry: dict) -> None:
    """Append a process's entry to journal.jsonl: its run, seconds, exit code and environment."""
    path = output / "journal.jsonl"
    with open(path, "a", encoding="utf-8", opener=atomic.no_follow) as file:
        file.write(json.dumps(entry) + "\n")


def journal(output: Path) -> list[dict]:
    """Return the entries of journal.jsonl; a line that is not whole is skipped."""
    try:
        text = (output / "journal.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    entries = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"run", "seconds", "environment"} <= entry.keys():
            entries.append(entry)
    return entries


def environment() -> dict:
    """Return the machine, and the versions that results depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "hardware": f"{_processor()}, {cores} cores, {platform.system()}",
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
