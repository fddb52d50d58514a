"""Flip single bits in the files of a finished run, and count what reading makes of each.

python tests/faults/flip.py --run=runs/my-run --flips=400

Each flip is in a copy of the folder, at a random bit of a random file that serving or comparing
relies on. Reading must then be refused in one line, or give what it gave before.
"""

import collections
import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli.command import Command, Section, exit_code
from ttt4rec_jax.runs import items, read
from ttt4rec_jax.runs.folder import RunFolder, load_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipFlags:
    """The flags of flip.py."""

    run: str = option("", "The folder of a finished run.")
    flips: int = option(400, "How many bits to flip, in one file at a time.", low=1)
    files: str = option("", "Names of the files, with commas between; default: all of them.")
    seed: int = option(0, "Seed of the places.", low=0)

    def __post_init__(self) -> None:
        check(self)


COMMAND = Command(__doc__, (Section("Flags:", FlipFlags),))


def content(path: Path) -> str:
    """Everything that serving, comparing and plotting read from a run but its checkpoints."""
    folder = RunFolder(path)
    run = read.read(path)
    read_items = items.read(folder.catalogue)
    about = [load_config(folder.config), run.config, run.result, read.history(path)]
    about += [read_items.ids, read_items.titles, read_items.clicks.tolist(), run.users.tolist()]
    return repr(about + [[x.tolist() for x in ranks] for ranks in run.ranks.values()])


def outcome(path: Path, expected: str) -> str:
    """Return in words what reading a folder gives."""
    try:
        return "as before" if content(path) == expected else "OTHER CONTENT"
    except UserError as error:
        return "one line" if "\n" not in str(error) else "SEVERAL LINES"
    except (Exception, pl.exceptions.PanicException) as error:
        return f"ERROR {type(error).__name__}"


def flip(asked: FlipFlags) -> None:
    """Flip bits, one at a time, and print the outcomes."""
    rng = np.random.default_rng(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "run"
        shutil.copytree(asked.run, path)
        expected = content(path)
        names = [file.name for file in sorted(path.iterdir()) if file.is_file()]
        names = asked.files.split(",") if asked.files else [n for n in names if n[0] != "."]
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for number in range(asked.flips):
            file = path / names[number % len(names)]
            whole = file.read_bytes()
            bit = int(rng.integers(8 * len(whole)))
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            counts[file.name, outcome(path, expected)] += 1
            file.write_bytes(whole)
    for (name, what), count in sorted(counts.items()):
        print(f"{name:<22} {what:<24} {count:>4}")


def main(argv: list[str]) -> int:
    """Return the exit code; see command.exit_code."""
    return exit_code(lambda: flip(COMMAND.parse(argv).settings(FlipFlags)))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
