"""Keyword arguments as the values of options, which the command line takes as flags."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.settings import DataConfig, UserError, nearest
from ttt4rec_jax.config import SECTIONS
from ttt4rec_jax.config.execution import RunConfig
from ttt4rec_jax.config.models import CUSTOM, config_class, not_an_option, own_options
from ttt4rec_jax.models import custom

# The options of RunConfig that train and sweep take.
EXECUTION = ("preset", "run_dir", "resume", "mesh", "data_placement")
OF_DATA = {field.name for field in dataclasses.fields(DataConfig)}


def model_names(model: Any) -> list[str]:
    """Return the names of models given as names, as "module:Class" or as classes; register these.

    Raises UserError.
    """
    names = []
    for one in model if isinstance(model, list | tuple) else [model]:
        if isinstance(one, type):
            name = custom.class_name(one)
            custom.register(name, one)
        else:
            name = str(one)
            custom.import_model(name)
        names.append(name)
    return names


def inner_names(inner: Any) -> list[str]:
    """Return the names of inner learners; those given as "module:name" are imported."""
    names = [str(one) for one in _values(inner)]
    for name in names:
        custom.import_inner(name)
    return names


def option_lists(
    data: DataConfig, model: Any, options: dict[str, Any]
) -> tuple[dict[str, list], set[str]]:
    """Return ({option: its values}, the options given), as cli.flags.parse does of a command line.

    data: the settings of the prepared data. options: by name, each a value or several. Raises
    UserError for an unknown option.
    """
    models = model_names(model)
    fields = [f for part in (*SECTIONS.values(), RunConfig) for f in dataclasses.fields(part)]
    for name in models:
        own = own_options(name) if name in CUSTOM else ()
        fields += [f for f in dataclasses.fields(config_class(name)) if f.name in own]
    lists: dict[str, list] = {field.name: [field.default] for field in fields}
    lists |= {name: [value] for name, value in dataclasses.asdict(data).items()}
    lists["model"] = models
    if "inner" in options:
        options = options | {"inner": inner_names(options["inner"])}
    for name, value in options.items():
        if name in OF_DATA:
            raise UserError(
                f"{name}: an option of the data; give it to prepare, as in "
                f"prepare(..., {name}={value!r})"
            )
        for owner in () if name in lists else CUSTOM:
            if name in own_options(owner):
                raise not_an_option(name, " or ".join(models))
        if name not in lists or name in _not_taken():
            raise UserError(f"{name}: there is no such option{nearest(name, lists)}")
        lists[name] = _values(value)
        if not lists[name]:
            raise UserError(f"{name}: is empty; give at least one value")
    return lists, {"model", *OF_DATA, *options}


def _not_taken() -> set[str]:
    """Return the flags of the command line that have no meaning here."""
    return {field.name for field in dataclasses.fields(RunConfig)} - set(EXECUTION)


def _values(value: Any) -> list:
    """Return the values of an option: a list, a range or an array has several."""
    if isinstance(value, str | Path) or not isinstance(value, Iterable):
        return [_plain(value)]
    return [_plain(one) for one in value]


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, and a path as text."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
