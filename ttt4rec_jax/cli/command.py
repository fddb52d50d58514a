"""What every command shares: its flags, read by absl, its --help, and its exit codes.

A command declares its flags as dataclasses of options (data_prep.settings.option), from which the
flags and the help text are made. They are read into a FlagValues of the command's own: absl's
global FLAGS is never used. Imports no JAX.
"""

import contextlib
import dataclasses
import gc
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from absl import flags

from data_prep.settings import UserError, choices_of, nearest, option
from data_prep.text import shown
from ttt4rec_jax.cli.surroundings import in_one_line, start_jax
from ttt4rec_jax.cli.terminal import discard_output, prepare_streams
from ttt4rec_jax.config.execution import DataFolders
from ttt4rec_jax.config.values import convert
from ttt4rec_jax.training.interrupt import Interrupted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
INSTALLED = "ttt4rec "  # what argv[0] begins with in a command of ttt4rec_jax/__main__.py
HELP_FLAGS = {"--help", "-help", "-h", "--helpfull", "--helpshort"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun(DataFolders):
    """The flags of a command that loads a finished run."""

    run: str = option("", "Folder of the run (required).", path=True)
    model: str = option("", "The run's model as module:Class, if it is one of your own.")
    inner: str = option("", "The run's inner learner as module:name, if it is one of your own.")

    def check_run(self) -> None:
        """Raise UserError if --run is missing or names a folder that holds no run."""
        if not self.run:
            raise UserError("--run: missing; give --run=FOLDER, the folder of a run; see --help")
        if not (Path(self.run) / "config.json").exists():
            raise UserError(
                f"--run: {self.run} holds no run (no config.json there); name the folder of a run"
            )

    def import_own(self) -> None:
        """Import the model and the inner learner that the flags name. Raises UserError."""
        if self.model or self.inner:
            start_jax()
            from ttt4rec_jax.runs.load import provide

            provide(Path(self.run), self.model or None, self.inner or None)


class Section(NamedTuple):
    """Flags under one heading of --help: fields of a dataclass of options.

    names: the fields that the section lists; () for all of them.
    """

    heading: str
    settings: type
    names: tuple[str, ...] = ()

    @property
    def fields(self) -> list[dataclasses.Field]:
        """The dataclass fields of the section's options."""
        fields = dataclasses.fields(self.settings)
        return [field for field in fields if not self.names or field.name in self.names]


class Parsed(NamedTuple):
    """A command line: every flag's text (or truth value), the flags given, the other arguments."""

    texts: dict[str, Any]
    given: set[str]
    positional: list[str]

    def settings(self, kind: type[T]) -> T:
        """Return the flags of a dataclass of options. Raises UserError."""
        fields = dataclasses.fields(kind)
        return kind(
            **{f.name: convert(f.name, self.texts[f.name], type(f.default)) for f in fields}
        )


@dataclasses.dataclass(frozen=True)
class Command:
    """A command's purpose and flags.

    purpose: the text that --help begins with; "{program}" in it stands for the command.
    positional: the name of its positional arguments, "" for none.
    """

    purpose: str
    sections: tuple[Section, ...]
    positional: str = ""
    positional_help: str = ""

    def usage(self, program: str) -> str:
        """Return what --help prints."""
        rest = f"{self.positional} [{self.positional} ...] " if self.positional else ""
        call = shlex.join(invocation(program))
        is_script = not program.startswith(INSTALLED)
        example = f"experiments/{Path(program).name}" if is_script else program
        purpose = self.purpose.replace("{program}", shlex.join(invocation(example)))
        lines = [purpose, "", f"usage: {call} {rest}[--flag=value ...]"]
        if self.positional:
            lines += ["", f"  {self.positional}", _indented(self.positional_help)]
        for section in self.sections:
            lines += ["", section.heading]
            for field in section.fields:
                choices = ", ".join(map(str, choices_of(field)))
                text = field.metadata.get("help", "") + (f" [{choices}]" if choices else "")
                lines += [f"  --{field.name}={field.default}", _indented(text)]
        return "\n".join(lines)

    def parse(self, argv: list[str]) -> Parsed:
        """Read the command line. Prints the usage and exits for --help; raises UserError."""
        if HELP_FLAGS & set(argv[1:]):
            try:
                print(self.usage(argv[0]), flush=True)
            except BrokenPipeError:  # a pipe to `head`: nothing is interrupted
                discard_output()
            sys.exit(0)
        values = self.define()
        try:
            positional = values(argv)[1:]
        except flags.UnrecognizedFlagError as error:
            close = nearest(f"--{error.flagname}", [f"--{name}" for name in values])
            raise UserError(
                f"--{error.flagname}: there is no such flag{close}; see --help"
            ) from error
        except RecursionError as error:  # from absl's search for similar names
            raise UserError("a flag's name is too long; see --help") from error
        except flags.IllegalFlagValueError as error:  # of a boolean flag: the others are text
            flag = str(error).removeprefix("flag ").partition(":")[0]
            raise UserError(f"{flag}: expected yes or no; see --help") from error
        except flags.Error as error:
            raise UserError(f"{str(error).splitlines()[0]}; see --help") from error
        if positional and not self.positional:
            raise UserError(f"{positional[0]!r}: expected --flag=value; see --help")
        if self.positional and not positional:
            raise UserError(f"{self.positional}: missing; give at least one; see --help")
        texts = {name: values[name].value for name in values}
        return Parsed(texts, {name for name in values if values[name].present}, positional)

    def define(self) -> flags.FlagValues:
        """Return a flag for every option. All but boolean flags are read as text."""
        values = flags.FlagValues()
        values.set_gnu_getopt(True)  # flags may follow positional arguments
        for section in self.sections:
            for field in section.fields:
                text = field.metadata.get("help", "")
                if isinstance(field.default, bool):
                    flag = flags.BooleanFlag(field.name, field.default, text)
                    flag.parser = YesNoParser()
                    flags.DEFINE_flag(flag, values)
                else:
                    flags.DEFINE_string(field.name, str(field.default), text, flag_values=values)
        return values


class YesNoParser(flags.BooleanParser):
    """Reads "yes" and "no" beside what absl takes: true, false, t, f, 1, 0."""

    def parse(self, argument: Any) -> bool:
        """Return the value of a flag. Raises ValueError."""
        return argument == "yes" if argument in ("yes", "no") else super().parse(argument)


def invocation(program: str) -> list[str]:
    """Return the words that call a command. program: argv[0]."""
    return program.split() if program.startswith(INSTALLED) else ["python", program]


def _indented(text: str) -> str:
    """Return a flag's help text in lines of at most 100 columns."""
    indent = " " * 8
    return textwrap.fill(
        text, 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def exit_code(body: Callable[[], None], how_to_resume: Callable[[], str] | None = None) -> int:
    """Run a command's body and return its exit code; an error is reported in one line on stderr.

    0: success. 2: a mistake of the user, training that diverged, or a machine that lacks what was
    asked for (memory, a file, a device). 130: interrupted. Any other exception is a bug and passes:
    Python prints a traceback and exits with 1.

    Args:
        how_to_resume: Returns the advice printed after an interruption, for a command that can be
            resumed. If its output pipe is closed, such a command counts as interrupted; any other
            command ends with exit code 0.
    """
    prepare_streams()
    # Importing JAX and tracing programs make many objects that live as long as the process. To look
    # for unused ones after every 700 of them takes a fifth of the time of the imports.
    gc.set_threshold(20_000)
    try:
        body()
        sys.stdout.flush()
    except UserError as error:
        return _failed(str(error))
    except (Interrupted, KeyboardInterrupt) as interrupt:
        return _interrupted(str(interrupt) or "interrupted", how_to_resume)
    except BrokenPipeError:
        discard_output()
        return _interrupted("the output was closed", how_to_resume) if how_to_resume else 0
    except Exception as error:
        if (line := in_one_line(error)) is None:
            raise
        discard_output()  # which may be what cannot be written
        return _failed(line)
    return 0


def _failed(line: str) -> int:
    """Report an error in one line; stdout may be an unwritable file, stderr a closed pipe."""
    with contextlib.suppress(OSError):
        print(f"error: {shown(line)}", file=sys.stderr, flush=True)
    return 2


def _interrupted(what: str, how_to_resume: Callable[[], str] | None) -> int:
    advice = f"; {how_to_resume()}" if how_to_resume else ""
    with contextlib.suppress(OSError):
        print(f"{what}{advice}", file=sys.stderr, flush=True)
    return 130
