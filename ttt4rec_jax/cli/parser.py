"""The argument parser of the smaller commands in experiments/, and the flags that they share. Imports no JAX."""

import argparse
from pathlib import Path

from data_prep.settings import UserError


class Parser(argparse.ArgumentParser):
    """Keeps the description's lines, and raises UserError where argparse would print its usage and exit."""

    def __init__(self, program: str, description: str):
        style = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog=f"python {program}",
            description=description,
            formatter_class=style,
            allow_abbrev=False,
        )

    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def add_run(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that loads a finished run."""
    parser.add_argument(
        "--run", metavar="FOLDER", required=True, type=Path, help="folder of the run"
    )
    parser.add_argument(
        "--data_dir", default="", help="as for main.py, for runs without catalogue.parquet"
    )
    parser.add_argument("--cache_dir", default="", help="as for main.py")


def check_run(asked: argparse.Namespace) -> None:
    """Raises UserError if --run names no run, or --k no number of items: before anything is imported or read."""
    if asked.k < 1:
        raise UserError(f"--k: found {asked.k}, expected at least 1")
    if not (asked.run / "config.json").exists():
        raise UserError(
            f"--run: {asked.run} holds no run (no config.json there); name the folder of a run"
        )
