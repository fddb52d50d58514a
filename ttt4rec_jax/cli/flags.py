"""Command-line flags made from the settings' fields. Imports no JAX: `--help` and a wrong flag are answered at once."""

import dataclasses
import itertools
import math
import sys

from absl import flags

from data_prep.settings import UserError, check, nearest, option
from ttt4rec_jax.cli import presets
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
    resume: bool = option(
        False, "Go on with the run in --run_dir; flags not given keep the run's values."
    )
    dry_run: bool = option(
        False, "Say what would be trained, in which programs, and what it costs; train nothing."
    )
    data_dir: str = option(
        "", "Folder of the archives; default: TTT4REC_DATA_DIR, or a folder in the user's cache."
    )
    cache_dir: str = option(
        "", "Folder of prepared data; default: TTT4REC_CACHE_DIR, or a folder in the user's cache."
    )
    program_cache: str = option(
        "", "Folder of compiled programs; default: a folder in the user's cache; none: keep none."
    )
    mesh: str = option(
        "",
        "One run on many devices: data:4,model:2 splits batches over 4, the item table over 2; default: one device.",
    )
    data_placement: str = option(
        "auto",
        "Where the data lie while they are used: device, whole; host, mapped from disk, each batch handed over; auto: device "
        "if they fit into a quarter of its memory.",
        choices=("auto", "device", "host"),
    )
    coordinator: str = option(
        "", "Of several processes: host:port of the first. Slurm, Kubernetes, Cloud TPU need none."
    )
    num_processes: int = option(
        1, "How many processes train together, each started with the same flags.", low=1
    )
    process_id: int = option(0, "Which of them this one is, from 0 on.", low=0)

    def __post_init__(self):
        check(self)
        mesh_sizes(self.mesh)
        if (self.num_processes > 1) != bool(self.coordinator):
            raise UserError("--coordinator and --num_processes: give both, or neither")
        if self.process_id >= self.num_processes:
            raise UserError(
                f"--process_id: found {self.process_id}, expected less than --num_processes={self.num_processes}"
            )
        if self.resume and not self.run_dir:
            raise UserError("--resume: needs --run_dir, the folder of the run to go on with")


def mesh_sizes(text: str) -> tuple[int, int]:
    """(data, model) of --mesh, each 1 if not named. Raises UserError."""
    sizes = {"data": 1, "model": 1}
    for part in text.split(",") if text else ():
        name, _, size = part.partition(":")
        if name not in sizes or not size.isdecimal() or int(size) < 1:
            raise UserError(
                f"--mesh: {part!r} is not an axis with its size; expected data:4, model:2 or data:4,model:2"
            )
        sizes[name] = int(size)
    return sizes["data"], sizes["model"]


PARTS = [*SECTIONS.values(), RunConfig]
MOST_COMBINATIONS = 10_000  # of a sweep; more is a slip of the pen, and would fill the memory
SEVERAL = (
    "Numbers and choices may be several, and every combination is trained: 0.01,0.1 or sasrec,ttt4rec; of numbers also",
    "lo:hi:n for n at equal distances, lo:hi:n:log for n at equal ratios (whole numbers are rounded).",
)


def define() -> flags.FlagValues:
    """Flags for every field of the settings. Those of SWEPT sections are read as text, which may list several values."""
    values = flags.FlagValues()
    for part in PARTS:
        for field in dataclasses.fields(part):
            kind = type(field.default)
            name = field.name
            help_text = field.metadata["help"]
            if kind is bool:
                flags.DEFINE_boolean(name, field.default, help_text, flag_values=values)
            else:
                flags.DEFINE_string(name, str(field.default), help_text, flag_values=values)
    return values


def usage(program: str, purpose: str) -> str:
    """What --help prints."""
    lines = [purpose, "", f"usage: python {program} [--flag=value ...]"]
    for name, part in zip([*SECTIONS, "run"], PARTS, strict=True):
        lines += ["", part.__doc__.splitlines()[0], *(SEVERAL if name in SWEPT else ())]
        for field in dataclasses.fields(part):
            choices = (
                f" [{', '.join(map(str, field.metadata['choices']))}]"
                if field.metadata["choices"]
                else ""
            )
            lines.append(
                f"  --{field.name}={field.default}\n        {field.metadata['help']}{choices}"
            )
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
    except RecursionError as error:  # absl looks for names like it, letter by letter
        raise UserError("a flag's name is too long; see --help") from error
    except flags.Error as error:
        raise UserError(f"{str(error).splitlines()[0]}; see --help") from error
    if rest:
        raise UserError(f"{rest[0]!r}: expected --flag=value; see --help")
    given = {name for name in values if values[name].present}
    lists = {}
    for section, part in zip([*SECTIONS, "run"], PARTS, strict=True):
        for field in dataclasses.fields(part):
            text = values[field.name].value
            kind = type(field.default)
            several = section in SWEPT and kind is not bool
            lists[field.name] = (
                expand(field.name, text, kind) if several else [convert(field.name, text, kind)]
            )
            if len(set(lists[field.name])) < len(lists[field.name]):
                raise UserError(f"--{field.name}={text}: a value stands there twice")
    check_presets(lists, given)
    return lists, given


def check_presets(lists: dict[str, list], given: set[str]) -> None:
    """Raises UserError if several models are swept for which the preset gives a flag, that is not given, different values."""
    models = lists["model"]
    preset = lists["preset"][0]
    dataset = lists["dataset"][0]
    if len(models) == 1:
        return
    first, *others = (
        {f: v for f, v in presets.values(preset, m, dataset).items() if f not in given}
        for m in models
    )
    for model, other in zip(models[1:], others, strict=True):
        for name in [*first, *other]:
            if first.get(name) != other.get(name):
                defaults = {f.name: f.default for part in PARTS for f in dataclasses.fields(part)}
                a, b = (found.get(name, defaults[name]) for found in (first, other))
                raise UserError(
                    f"--{name}: --preset={preset} gives {a} to {models[0]} and {b} to {model}; give --{name} for all"
                )


def expand(name: str, text: str, kind: type) -> list:
    """The values that a flag lists: a,b,c, with lo:hi:n and lo:hi:n:log among them if they are numbers. Raises UserError."""
    found = []
    for part in text.split(","):
        found += (
            spread(name, part, kind)
            if ":" in part and kind is not str
            else [convert(name, part, kind)]
        )
    return found


def spread(name: str, text: str, kind: type) -> list:
    """n numbers from lo to hi, as lo:hi:n or lo:hi:n:log asks. Raises UserError."""
    low, high, count, *form = text.split(":") if text.count(":") in (2, 3) else ("", "", "", "?")
    if form not in ([], ["log"]):
        raise UserError(
            f"--{name}: {text!r} is not a range; expected lo:hi:n or lo:hi:n:log, as in 0.001:0.1:5:log"
        )
    low = convert(name, low, kind)
    high = convert(name, high, kind)
    count = convert(name, count, int)
    is_finite = (
        max(abs(low), abs(high)) <= sys.float_info.max
    )  # by comparing: isfinite overflows for a huge whole number
    if not 2 <= count <= 1000 or not is_finite or (form and min(low, high) <= 0):
        wants = "n of 2 to 1000" + " and limits above 0" * bool(form)
        raise UserError(
            f"--{name}: {text!r} is a range of {count} from {low} to {high}; expected {wants}"
        )
    shares = [i / (count - 1) for i in range(count)]
    inner = [low * (high / low) ** t if form else low + (high - low) * t for t in shares[1:-1]]
    # to six digits, so that folders are not named 0.30000000000000004
    return [low, *(round(x) if kind is int else float(f"{x:.6g}") for x in inner), high]


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
    if (count := math.prod(map(len, lists.values()))) > MOST_COMBINATIONS:
        raise UserError(
            f"--{', --'.join(swept)}: {count:,} combinations, expected at most {MOST_COMBINATIONS:,}; give fewer values"
        )
    combinations = {}
    names = {}
    for values in itertools.product(*(lists[name] for name in swept)):
        chosen = dict(zip(swept, values, strict=True))
        name = ",".join(f"{flag}={value}" for flag, value in chosen.items())
        config = Config.from_flags(single | chosen)
        if (same := names.setdefault(config, name)) != name:
            raise UserError(f"{same} and {name} are the same run; leave one out")
        combinations[name] = config
    if len(combinations) > 1 and (run.mesh or run.coordinator):
        raise UserError(
            "--mesh: spreads one run over devices, and this is a sweep, whose runs are spread by themselves"
        )
    return combinations, run
