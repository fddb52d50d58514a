"""What a process and those that it has started take of the machine. Linux only."""

import os
import re
import subprocess
from pathlib import Path


def workers_of(process: subprocess.Popen) -> list[int]:
    """Return the processes that a service has started."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for file in children for pid in file.read_text().split()]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(process: subprocess.Popen) -> float:
    """Return the resident memory of a process and its children in MB."""
    pids = [process.pid, *workers_of(process)]
    lines = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    found = [re.search(r"VmRSS:\s+(\d+) kB", text) for text in lines]
    return sum(int(match[1]) for match in found if match) / 1e3
