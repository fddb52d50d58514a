"""The flags of experiments/main.py, made from the fields of the settings. Imports no JAX."""

import dataclasses
import itertools
from collections.abc import Sequence

from absl.flags import FlagValues

from data_prep.settings import UserError
from ttt4rec_jax.cli.command import Command, Section
from ttt4rec_jax.cli.surroundings import start_jax
from ttt4rec_jax.config import SECTIONS, SWEPT
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.config.models import config_class, own_options
from ttt4rec_jax.config.values import convert, expand
from ttt4rec_jax.pipeline import presets

PARTS: dict[str, type] = {**SECTIONS, "run": RunConfig}
HEADINGS = {
    "data": "Data: the interactions, how they are filtered and split, and the evaluation sets.",
    "model": "Model: the recommender and its hyper-parameters.",
    "train": "Training: the examples, the loss, the optimizer and the batches.",
    "eval": "Evaluation:",
    "record": "Records: what a run writes in addition; its metrics do not depend on it.",
    "run": "Where to run: folders, resuming, devices and processes.",
}


def command(purpose: str, models: Sequence[str] = ()) -> Command:
    """Return main.py's flags, section by section, with the options that custom models add."""
    sections = []
    for name, part in PARTS.items():
        sections.append(Section(HEADINGS[name], part))
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

    Called before the flags are read, since a custom model's own options are flags too. Returns the
    names of the models. Raises UserError.
    """
    named: dict[str, list[str]] = {"model": [], "inner": []}
    for flag, names in named.items():
        for argument, following in itertools.pairwise([*argv, ""]):
            name, equals, value = argument.lstrip("-").partition("=")
            if argument.startswith("-") and name == flag:
                names += (value if equals else following).split(",")
        names[:] = [name for name in names if ":" in name]
    if any(named.values()):
        start_jax()  # such a module imports it itself
        from ttt4rec_jax.models import custom

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
