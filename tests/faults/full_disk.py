"""Fill the disk at every stage of a run, make room, resume, and compare with an undisturbed run:

unshare --map-root-user --mount python tests/faults/full_disk.py --sizes=30

Each run has a disk of its own (a tmpfs, Linux), which holds its prepared data and its folder, and
is full sooner or later than the one before. A run must end in one line that is no traceback, and
end in the same bits when it is resumed on a larger disk. Exit code 0: all did.
"""

import collections
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill import Bench, difference

from data_prep.settings import check, option
from ttt4rec_jax.cli.command import Command, Section, exit_code

KB = 1024
ROOM = "size=256m"
STAGES = (  # what a log that ends with an error says last: the first that matches
    ("after an epoch or in results", r"epoch +\d+/"),
    ("before the first epoch's end", r"platform "),
    ("in preparation", ""),
)


def mount(folder: Path, options: str) -> None:
    """Mount a tmpfs, or change the size of the one there. Raises RuntimeError."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{done.stderr.strip()}; run it as the command above says")


def used(folder: Path) -> int:
    """Return the kB in use on a folder's disk."""
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize // KB


def fill(bench: Bench, disk: Path, size: int) -> str:
    """Train on a disk of `size` kB, then resume on a larger one. Return where it was full, or "".

    Raises AssertionError if the run ends in anything but one line, or in other bits.
    """
    mount(disk, f"size={size}k")
    try:
        process, log = bench.start("run", "disk/run")
        code = process.wait()
        said = log.read_text()
        assert code in (0, 2), f"{size} kB: exit code {code}:\n{said}"
        assert "Traceback" not in said, f"{size} kB:\n{said}"
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == (code == 2), f"{size} kB: {errors}"
        mount(disk, f"remount,{ROOM}")
        bench.finish("run", "disk/run")
        found = difference(bench.folder / "whole", disk / "run")
        assert not found, f"{size} kB: {found} differ from the undisturbed run"
        left = [path for path in disk.rglob("*.part") if path.is_file()]
        assert not left, f"{size} kB: {left} are left"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    if code == 0:
        return ""
    return next(stage for stage, pattern in STAGES if re.search(pattern, said, re.MULTILINE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiskFlags:
    """The flags of full_disk.py."""

    sizes: int = option(30, "How many sizes of the disk are tried.", low=1)

    def __post_init__(self) -> None:
        check(self)


COMMAND = Command(__doc__, (Section("Flags:", DiskFlags),))


def main(argv: list[str]) -> int:
    """Fill disks and count. Returns the exit code, see command.exit_code."""
    return exit_code(lambda: _fill(COMMAND.parse(argv).settings(DiskFlags)))


def _fill(asked: DiskFlags) -> None:
    started = time.perf_counter()
    counts: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), dict(os.environ))
        disk = bench.folder / "disk"
        disk.mkdir()
        bench.environment["TTT4REC_CACHE_DIR"] = str(disk / "prepared")
        mount(disk, ROOM)
        try:
            bench.finish("run", "disk/run")
            need = used(disk)
            subprocess.run(["cp", "-r", disk / "run", bench.folder / "whole"], check=True)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        for i in range(asked.sizes):
            # closer together towards the end, where the run itself writes
            size = max(4, int(need * (1 - (1 - i / asked.sizes) ** 2)))
            where = fill(bench, disk, size)
            counts[where or "not full"] += 1
            print(f"{size} of {need} kB: {where or 'not full'}", flush=True)
    print(f"\n{asked.sizes} disks, {time.perf_counter() - started:.0f} s: {dict(counts)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
