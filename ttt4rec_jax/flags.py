"""Command-line flags made from the settings' fields. Imports no JAX: `--help` and a wrong flag are answered at once."""

import dataclasses
import sys

from absl import flags

from data_prep.settings import UserError, check, nearest, option
from ttt4rec_jax.config import SECTIONS, Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run reads and writes; nothing here changes its result."""

    run_dir: str = option("", "Folder of the run; default: runs/<model>-<dataset>-<time>.")
    resume: bool = option(False, "Go on with the run in --run_dir; flags not given keep the run's values.")
    data_dir: str = option("", "Folder of the archives; default: TTT4REC_DATA_DIR, or a folder in the user's cache.")
    cache_dir: str = option("", "Folder of prepared data; default: TTT4REC_CACHE_DIR, or a folder in the user's cache.")

    def __post_init__(self):
        check(self)
        if self.resume and not self.run_dir:
            raise UserError("--resume: needs --run_dir, the folder of the run to go on with")


DEFINE = {bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}


def define(parts) -> flags.FlagValues:
    """Flags for every field of the given settings classes."""
    values = flags.FlagValues()
    for part in parts:
        for field in dataclasses.fields(part):
            DEFINE[type(field.default)](field.name, field.default, field.metadata["help"], flag_values=values)
    return values


def usage(program: str, purpose: str, parts) -> str:
    """What --help prints."""
    lines = [purpose, "", f"usage: python {program} [--flag=value ...]"]
    for part in parts:
        lines += ["", part.__doc__.splitlines()[0]]
        for field in dataclasses.fields(part):
            choices = f" [{', '.join(map(str, field.metadata['choices']))}]" if field.metadata["choices"] else ""
            lines.append(f"  --{field.name}={field.default}\n        {field.metadata['help']}{choices}")
    return "\n".join(lines)


def parse(argv: list[str], purpose: str) -> tuple[dict, set[str]]:
    """All flag values by name, and the names given on the command line. Exits after --help; raises UserError."""
    parts = [*SECTIONS.values(), RunConfig]
    if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(argv[1:]):
        print(usage(argv[0], purpose, parts))
        sys.exit(0)
    values = define(parts)
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
    return values.flag_values_dict(), given


def settings(values: dict, given: set[str], saved: Config | None) -> tuple[Config, RunConfig]:
    """Settings from flag values; a resumed run's saved ones stand in for flags that were not given."""
    run = RunConfig(**{f.name: values[f.name] for f in dataclasses.fields(RunConfig)})
    if saved is not None:
        old = {name: value for section in saved.to_dict().values() for name, value in section.items()}
        values = values | {name: value for name, value in old.items() if name not in given}
    return Config.from_flags(values), run
