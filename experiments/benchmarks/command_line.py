"""What the benchmarks' command lines share. Imports no JAX, so that children start small."""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from data_prep import atomic
from data_prep.settings import UserError, check, nearest, option
from ttt4rec_jax.cli.command import Command, Section, exit_code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """The flags of every benchmark."""

    json: str = option("", "Also write the figures to this file.")

    def __post_init__(self) -> None:
        check(self)


T = TypeVar("T", bound=Figures)


def run(purpose: str, kind: type[T], body: Callable[[T], None]) -> int:
    """Run a benchmark with the flags of its command line. Returns the exit code."""
    command = Command(purpose, (Section("Flags:", kind),))
    return exit_code(lambda: body(command.parse(sys.argv).settings(kind)))


def run_with_main_flags(purpose: str, kind: type[T], body: Callable[[T, list[str]], None]) -> int:
    """Run a benchmark that hands what follows `--` to main.py. Returns the exit code."""
    command = Command(purpose, (Section("Flags:", kind),))
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    main_flags = sys.argv[cut + 1 :]
    return exit_code(lambda: body(command.parse(sys.argv[:cut]).settings(kind), main_flags))


def check_names(flag: str, text: str, known: Collection[str]) -> None:
    """Raise UserError if a name of a list separated by commas is not known."""
    for name in text.split(","):
        if name not in known:
            raise UserError(
                f"--{flag}: {name!r} is not one of {', '.join(known)}{nearest(name, known)}"
            )


def write_json(file: str, figures: dict) -> None:
    """Write figures to the file of --json; "" for none. Raises UserError."""
    write("json", file, json.dumps(figures, indent=1) + "\n")


def write(flag: str, file: str, text: str) -> None:
    """Write a flag's file whole or not at all; "" for none. Raises UserError."""
    if not file:
        return
    try:
        with atomic.file(Path(file)) as new:
            new.write(text.encode())
    except OSError as error:
        raise UserError(
            f"--{flag}: {file} cannot be written ({error.strerror}); name another file"
        ) from error
