"""Command-line flags made from the settings' fields. Imports no JAX: `--help` and a wrong flag are answered at once."""

import dataclasses
import itertools
import sys

from absl import flags

from data_prep.settings import UserError, check, nearest, option
from ttt4rec_jax.config import SECTIONS, SWEPT, Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run reads and writes, and what stands in for flags that are not given."""

    preset: str = option(
        "paper",
        "Values of the flags that are not given: the paper's, or the best found for the model and data set.",
        choices=("paper", "best"),
    )
    run_dir: str = option("", "Folder of the run; default: runs/<model>-<dataset>-<time>.")
    resume: bool = option(False, "Go on with the run in --run_dir; flags not given keep the run's values.")
    data_dir: str = option("", "Folder of the archives; default: TTT4REC_DATA_DIR, or a folder in the user's cache.")
    cache_dir: str = option("", "Folder of prepared data; default: TTT4REC_CACHE_DIR, or a folder in the user's cache.")
    program_cache: str = option("", "Folder of compiled programs; default: a folder in the user's cache; none: keep none.")

    def __post_init__(self):
        check(self)
        if self.resume and not self.run_dir:
            raise UserError("--resume: needs --run_dir, the folder of the run to go on with")


PARTS = [*SECTIONS.values(), RunConfig]


def define() -> flags.FlagValues:
    """Flags for every field of the settings. Those of SWEPT sections are read as text, which may list several values."""
    values = flags.FlagValues()
    for part in PARTS:
        for field in dataclasses.fields(part):
            kind = type(field.default)
            name, help_text = field.name, field.metadata["help"]
            if kind is bool:
                flags.DEFINE_boolean(name, field.default, help_text, flag_values=values)
            else:
                flags.DEFINE_string(name, str(field.default), help_text, flag_values=values)
    return values


def usage(program: str, purpose: str) -> str:
    """What --help prints."""
    lines = [purpose, "", f"usage: python {program} [--flag=value ...]"]
    for name, part in zip([*SECTIONS, "run"], PARTS, strict=True):
        swept = " Each number may be several, as in 0.01,0.1: every combination is trained." if name in SWEPT else ""
        lines += ["", part.__doc__.splitlines()[0] + swept]
        for field in dataclasses.fields(part):
            choices = f" [{', '.join(map(str, field.metadata['choices']))}]" if field.metadata["choices"] else ""
            lines.append(f"  --{field.name}={field.default}\n        {field.metadata['help']}{choices}")
    return "\n".join(lines)


def parse(argv: list[str], purpose: str) -> tuple[dict[str, list], set[str]]:
    """Every flag's values by its name, and the names given on the command line. Exits after --help; raises UserError."""
    if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(argv[1:]):
        print(usage(argv[0], purpose))
        sys.exit(0)
    values = define()
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        close = nearest(f"--{error.flagname}", [f"--{name}" for name in values])
        raise UserError(f"--{error.flagname}: there is no such flag{close}; see --help") from error
    except flags.Error as error:
        raise UserError(f"{str(error).splitlines()[0]}; see --help") from error
    if rest:
        raise UserError(f"{rest[0]!r}: expected --flag=value; see --help")
    given = {name for name in values if values[name].present}
    lists = {}
    for section, part in zip([*SECTIONS, "run"], PARTS, strict=True):
        for field in dataclasses.fields(part):
            text, kind = values[field.name].value, type(field.default)
            several = section in SWEPT and kind in (int, float)
            lists[field.name] = [convert(field.name, t, kind) for t in (text.split(",") if several else [text])]
            if len(set(lists[field.name])) < len(lists[field.name]):
                raise UserError(f"--{field.name}={text}: a value stands there twice")
    return lists, given


def convert(name: str, text, kind: type):
    """A flag's text as a value of its type. Raises UserError."""
    try:
        return text if kind in (bool, str) else kind(text)
    except ValueError as error:
        number = "a whole number" if kind is int else "a number"
        raise UserError(f"--{name}: {text!r} is not {number}; see --help") from error


def settings(lists: dict[str, list]) -> tuple[dict[str, Config], RunConfig]:
    """({name: configuration} of every combination of the flags' values, where to run).

    A combination is named by what is swept, "" if nothing is.
    """
    run = RunConfig(**{f.name: lists[f.name][0] for f in dataclasses.fields(RunConfig)})
    swept = [name for name, values in lists.items() if len(values) > 1]
    single = {name: values[0] for name, values in lists.items()}
    combinations = {}
    for values in itertools.product(*(lists[name] for name in swept)):
        chosen = dict(zip(swept, values, strict=True))
        name = ",".join(f"{flag}={value}" for flag, value in chosen.items())
        combinations[name] = Config.from_flags(single | chosen)
    return combinations, run
