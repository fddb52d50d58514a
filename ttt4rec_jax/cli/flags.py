"""The flags of experiments/main.py, made from the fields of the settings. Imports no JAX."""

import dataclasses
import itertools
from collections.abc import Sequence

from absl.flags import FlagValues

from data_prep.settings import UserError
from ttt4rec_jax.cli.command import Command, Section
from ttt4rec_jax.cli.values import convert, expand
from ttt4rec_jax.config import SECTIONS, SWEPT
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.config.models import config_class, own_options
from ttt4rec_jax.pipeline import presets

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


def command(purpose: str, models: Sequence[str] = ()) -> Command:
    """Return main.py's flags, section by section, with the own options of custom models."""
    sections = []
    for name, part in PARTS.items():
        several = SEVERAL if name in SWEPT else ""
        sections.append(Section(HEADINGS[name] + several, part))
        if name == "model":
            sections += [
                Section(f"Options of --model={model}.", config_class(model), names)
                for model in models
                if (names := own_options(model))
            ]
    return Command(purpose, tuple(sections))


def define() -> FlagValues:
    """Return absl's flags of main.py."""
    return command("").define()


def parse(argv: list[str], purpose: str) -> tuple[dict[str, list], set[str]]:
    """Return ({flag: its values}, the flags given). Exits after --help; raises UserError.

    Only flags of the swept sections may have several values.
    """
    check_ffn_has_a_value(argv)
    models = import_named(argv)
    parsed = command(purpose, models).parse(argv)
    lists = {}
    for section, part in PARTS.items():
        fields = list(dataclasses.fields(part))
        if section == "model":
            for model in models:
                names = own_options(model)
                fields += [f for f in dataclasses.fields(config_class(model)) if f.name in names]
        for field in fields:
            lists[field.name] = _values(section, field, parsed.texts[field.name])
    presets.check_swept(lists, parsed.given)
    return lists, parsed.given


def check_ffn_has_a_value(argv: list[str]) -> None:
    """Raise UserError for --ffn and --noffn, which were flags without a value."""
    for argument, following in itertools.pairwise([*argv, ""]):
        has_value = following and not following.startswith("-")
        if argument == "--noffn" or (argument == "--ffn" and not has_value):
            raise UserError(
                f"{argument}: found no value; write --ffn=gelu, as --ffn alone meant, --ffn=swiglu "
                "or, as --noffn meant, --ffn=none"
            )


def import_named(argv: list[str]) -> list[str]:
    """Import the models and inner learners that argv names as module:attribute.

    It comes before the flags are read, since a model's own options are flags too. Returns the names
    of the models. Raises UserError.
    """
    named: dict[str, list[str]] = {"model": [], "inner": []}
    for flag, names in named.items():
        for argument, following in itertools.pairwise([*argv, ""]):
            name, equals, value = argument.lstrip("-").partition("=")
            if argument.startswith("-") and name == flag:
                names += (value if equals else following).split(",")
        names[:] = [name for name in names if ":" in name]
    if any(named.values()):
        from ttt4rec_jax.models import custom  # imports JAX, as such a module does itself

        for name in named["model"]:
            custom.import_model(name)
        for name in named["inner"]:
            custom.import_inner(name)
    return list(dict.fromkeys(named["model"]))


def _values(section: str, field: dataclasses.Field, text: str | bool) -> list:
    """Return a flag's values. Raises UserError."""
    kind = type(field.default)
    if section not in SWEPT or isinstance(text, bool):
        return [convert(field.name, text, kind)]
    values = expand(field.name, text, kind)
    if len(set(values)) < len(values):
        raise UserError(f"--{field.name}={text}: duplicate value; give each value once")
    return values
