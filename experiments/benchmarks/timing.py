"""Timing functions that the benchmarks share.

Compiled programs take turns, so that other load on the machine affects all of them equally.
"""

import os
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from command_line import write_json

Name = TypeVar("Name", bound=Hashable)


def interleaved(
    programs: Mapping[Name, Callable[[], Any]], repeats: int, warmup: int = 2
) -> dict[Name, float]:
    """Return the median milliseconds of each function of no arguments, by name.

    They run in turns, `repeats` times each. An untimed call of the same program precedes each timed
    call. Without it, a call that follows a memory-heavy program is slower (by half at 10 ms), and
    ratios depend on the order of the rows.
    """
    for program in programs.values():
        for _ in range(warmup):
            jax.block_until_ready(program())
    seconds: dict[Name, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            jax.block_until_ready(program())
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}


def machine() -> dict:
    """Return a description of the machine and its load."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cpus": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def show(rows: list[dict], before: dict, json_file: str = "") -> None:
    """Print the machine and a table of rows with the same keys; write both as JSON to json_file.

    before: `machine()` at the start. json_file: "" for none.
    """
    print(before)
    cells = [
        list(rows[0]),
        *([f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
    print(f"load at the end {machine()['load']}")
    write_json(json_file, {"machine": before, "rows": rows})
