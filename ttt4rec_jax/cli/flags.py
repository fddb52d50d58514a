"""The flags of experiments/main.py, made from the fields of the settings. Imports no JAX."""

import dataclasses
import itertools
import math

from absl.flags import FlagValues

from data_prep.settings import UserError, check, option
from ttt4rec_jax.cli import presets
from ttt4rec_jax.cli.command import PROGRAM_CACHE, Command, DataFolders, Section
from ttt4rec_jax.cli.values import convert, expand
from ttt4rec_jax.config import SECTIONS, SWEPT, Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(DataFolders):
    """Where a run reads and writes, and where flags that are not given take their values from."""

    preset: str = option(
        "paper",
        "Values of the flags that are not given: those of the paper, "
        "or the best known for the model and data set.",
        choices=("paper", "best"),
    )
    run_dir: str = option("", "Folder of the run; default: runs/<model>-<dataset>-<time>.")
    resume: bool = option(
        False, "Resume the run in --run_dir; flags that are not given keep the run's values."
    )
    dry_run: bool = option(
        False, "Print what would be trained, in which programs and at what cost; train nothing."
    )
    program_cache: str = option("", PROGRAM_CACHE)
    mesh: str = option(
        "",
        "Spread one run over several devices: data:4,model:2 splits batches over 4 and the item "
        "table over 2; default: one device.",
    )
    data_placement: str = option(
        "auto",
        "Where the data reside during training. device: in the device's memory. host: mapped from "
        "disk, and transferred batch by batch. auto: device if they fit into a quarter of its "
        "memory.",
        choices=("auto", "device", "host"),
    )
    coordinator: str = option(
        "",
        "Address host:port of the first of several processes; "
        "Slurm, Kubernetes and Cloud TPU need none.",
    )
    num_processes: int = option(
        1, "Number of processes that train together, each started with the same flags.", low=1
    )
    process_id: int = option(0, "Index of this process among them, from 0.", low=0)

    def __post_init__(self) -> None:
        check(self)
        mesh_sizes(self.mesh)
        if (self.num_processes > 1) != bool(self.coordinator):
            raise UserError("--coordinator and --num_processes: give both, or neither")
        if self.process_id >= self.num_processes:
            raise UserError(
                f"--process_id: found {self.process_id}, "
                f"expected less than --num_processes={self.num_processes}"
            )
        if self.resume and not self.run_dir:
            raise UserError("--resume: needs --run_dir, the folder of the run to resume")


def mesh_sizes(text: str) -> tuple[int, int]:
    """Return (data, model) of --mesh, 1 for an axis that is not named. Raises UserError."""
    sizes = {"data": 1, "model": 1}
    for part in text.split(",") if text else ():
        name, _, size = part.partition(":")
        if name not in sizes or not size.isdecimal() or int(size) < 1:
            raise UserError(
                f"--mesh: {part!r} is not an axis with its size; "
                "expected data:4, model:2 or data:4,model:2"
            )
        sizes[name] = int(size)
    return sizes["data"], sizes["model"]


PARTS: dict[str, type] = {**SECTIONS, "run": RunConfig}
HEADINGS = {
    "data": "Which interactions are read, how they are filtered and split, and evaluation sets.",
    "model": "The model and its shape.",
    "train": "How a model is trained.",
    "eval": "How a model is evaluated.",
    "record": "What a run records beside its metrics, which do not depend on it.",
    "run": "Where a run reads and writes, and defaults of the flags that are not given.",
}
SEVERAL = """
Numbers and choices may list several values, and every combination is trained: 0.01,0.1 or
sasrec,ttt4rec. Numbers may also be ranges: lo:hi:n for n equally spaced values, lo:hi:n:log for
logarithmically spaced ones (whole numbers are rounded)."""
MAX_COMBINATIONS = 10_000  # of a sweep; more is almost certainly a mistake, and would fill memory


def command(purpose: str) -> Command:
    """Return main.py's flags, section by section."""
    sections = [
        Section(HEADINGS[name] + (SEVERAL if name in SWEPT else ""), part)
        for name, part in PARTS.items()
    ]
    return Command(purpose, tuple(sections))


def define() -> FlagValues:
    """Return absl's flags of main.py."""
    return command("").define()


def parse(argv: list[str], purpose: str) -> tuple[dict[str, list], set[str]]:
    """Return ({flag: its values}, the flags given). Exits after --help; raises UserError.

    Only flags of the swept sections may have several values.
    """
    parsed = command(purpose).parse(argv)
    lists = {}
    for section, part in PARTS.items():
        for field in dataclasses.fields(part):
            lists[field.name] = _values(section, field, parsed.texts[field.name])
    _check_presets(lists, parsed.given)
    return lists, parsed.given


def _values(section: str, field: dataclasses.Field, text: str | bool) -> list:
    """Return a flag's values. Raises UserError."""
    kind = type(field.default)
    if section not in SWEPT or isinstance(text, bool):
        return [convert(field.name, text, kind)]
    values = expand(field.name, text, kind)
    if len(set(values)) < len(values):
        raise UserError(f"--{field.name}={text}: duplicate value; give each value once")
    return values


def _check_presets(lists: dict[str, list], given: set[str]) -> None:
    """Raise UserError if the preset sets a flag that is not given differently for swept models."""
    models = lists["model"]
    if len(models) == 1:
        return
    preset = lists["preset"][0]
    dataset = lists["dataset"][0]
    defaults = {f.name: f.default for part in PARTS.values() for f in dataclasses.fields(part)}
    chosen = {}
    for model in models:
        values = presets.values(preset, model, dataset)
        chosen[model] = {name: value for name, value in values.items() if name not in given}
    first = models[0]
    for model in models[1:]:
        for name in [*chosen[first], *chosen[model]]:
            a = chosen[first].get(name, defaults[name])
            b = chosen[model].get(name, defaults[name])
            if a != b:
                raise UserError(
                    f"--{name}: --preset={preset} gives {a} to {first} and {b} to {model}; "
                    f"give --{name} for all"
                )


def settings(lists: dict[str, list]) -> tuple[dict[str, Config], RunConfig]:
    """Return ({name: configuration} of every combination of the flags' values, where to run).

    A combination is named by the values of the swept flags, "" if nothing is swept. Raises
    UserError.
    """
    run = RunConfig(**{f.name: lists[f.name][0] for f in dataclasses.fields(RunConfig)})
    swept = [name for name, values in lists.items() if len(values) > 1]
    count = math.prod(map(len, lists.values()))
    if count > MAX_COMBINATIONS:
        raise UserError(
            f"--{', --'.join(swept)}: {count:,} combinations, "
            f"expected at most {MAX_COMBINATIONS:,}; give fewer values"
        )
    combinations = _combinations(lists, swept)
    if len(combinations) > 1 and (run.mesh or run.coordinator):
        raise UserError(
            "--mesh: spreads one run over devices, but this is a sweep, "
            "whose runs are spread over them already; leave it out"
        )
    return combinations, run


def _combinations(lists: dict[str, list], swept: list[str]) -> dict[str, Config]:
    """Return {name: configuration}. Raises UserError if two combinations are the same run."""
    single = {name: values[0] for name, values in lists.items()}
    combinations: dict[str, Config] = {}
    names: dict[Config, str] = {}
    for values in itertools.product(*(lists[name] for name in swept)):
        chosen = dict(zip(swept, values, strict=True))
        name = ",".join(f"{flag}={value}" for flag, value in chosen.items())
        config = Config.from_flags(single | chosen)
        same = names.setdefault(config, name)
        if same != name:
            raise UserError(f"{same} and {name} are the same run; leave one out")
        combinations[name] = config
    return combinations
