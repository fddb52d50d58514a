"""What the benchmarks' command lines share. Imports no JAX, so that children start small."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from data_prep.settings import UserError, check, option
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


def write_json(file: str, figures: dict) -> None:
    """Write figures to a file; "" for none. Raises UserError."""
    if not file:
        return
    try:
        Path(file).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--json: {file} cannot be written ({error.strerror}); name another file"
        ) from error
