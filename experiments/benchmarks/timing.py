"""Timing shared by the benchmarks: compiled programs run in turns, so that whatever else the machine does hits all alike."""

import json
import os
import time

import jax
import numpy as np


def interleaved(programs: dict, repeats: int, warmup: int = 2) -> dict[str, float]:
    """Median milliseconds of each `name -> function of no arguments`, run one after the other, `repeats` times over.

    Each timed call follows an untimed one of the same program: whoever comes after a program that
    used much memory otherwise pays for it (half as much again at 10 ms), and ratios would depend on
    the order of the
    rows.
    """
    for program in programs.values():
        for _ in range(warmup):
            jax.block_until_ready(program())
    seconds = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            jax.block_until_ready(program())
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}


def machine() -> dict:
    """What the numbers were measured on, and how busy it was."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def show(rows: list[dict], before: dict, json_file: str = "") -> None:
    """Prints the machine and a table of rows that share their keys; writes both as JSON if a file is named."""
    print(before)
    cells = [
        list(rows[0]),
        *([f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
    print(f"load at the end {machine()['load']}")
    if json_file:
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump({"machine": before, "rows": rows}, file, indent=1)
