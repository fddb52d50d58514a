"""The time and memory of a process from its start to its end. Imports no JAX."""

import os
import platform
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SAMPLED_S = 0.5
BYTES = 1 if platform.system() == "Darwin" else 1024  # of a unit of ru_maxrss


class Watched(NamedTuple):
    """A process that has ended: its output, exit code, times and memory.

    peak_mb: the kernel's high-water mark of resident memory.
    anonymous_mb: the largest of samples SAMPLED_S apart of what is not backed by files.
    sign_seconds: the time until it wrote the sign, None if it did not.
    """

    output: str
    code: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    anonymous_mb: float
    sign_seconds: float | None


def watch(command: list[str], sign: str = "", seconds_more: float = 0) -> Watched:
    """Run a command to its end; interrupt it (SIGINT) `seconds_more` after it writes `sign`."""
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
            if sign and sign_seconds is None and sign.encode() in output:
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


def load_average() -> float | None:
    """Return the machine's load over the last minute, None where it is unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
