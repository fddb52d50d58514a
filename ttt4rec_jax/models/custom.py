"""Models and inner learners that are not part of this package.

`register` and `register_inner` put them under a name; `import_model` and `import_inner` take the
name "module:attribute" of the command line. From then on the name is a value of --model or --inner
like those of this package, in training, sweeps, resuming, recommending and exporting.
"""

import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from flax import nnx

from data_prep.settings import UserError, first_line
from ttt4rec_jax.config import MODELS, OPTIONS, Capabilities, ModelConfig
from ttt4rec_jax.config.models import CUSTOM, INNER, CustomModel
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, InnerLearner

BUILT_IN_MODELS = frozenset(MODELS)
BUILT_IN_INNER = frozenset(INNER)
OPTION_TYPES = (bool, int, float, str)


def register(name: str, cls: Any) -> None:
    """Make a model available as `model=name`.

    Args:
        cls: A class that extends nnx.Module, with __init__(config, num_items, rngs) and the methods
            of a protocol of models/interface.py. These attributes are optional: `config_class`, a
            frozen dataclass that extends ModelConfig, whose own fields are options of the model;
            `capabilities`; `uses`, the options of ModelConfig that the model honours beside
            max_len, dim and dropout.

    A name that is registered again, as when a notebook's cell is run twice, means the new class.
    Raises UserError if the class is not such a model, or the name is one of this package's.
    """
    if name in BUILT_IN_MODELS:
        raise UserError(f"register: {name!r} is a model of this package; choose another name")
    if not (isinstance(cls, type) and issubclass(cls, nnx.Module)):
        raise UserError(f"register: {name!r} is {cls!r}, expected a class that extends nnx.Module")
    config_class = getattr(cls, "config_class", ModelConfig)
    _check_config_class(name, config_class)
    capabilities = getattr(cls, "capabilities", None) or inferred(name, cls)
    if not capabilities.trained:
        raise UserError(
            f"register: {name!r} has capabilities.trained=False; register models that are trained, "
            "and evaluate others with ttt4rec_jax.evaluate"
        )
    uses = tuple(getattr(cls, "uses", ()))
    if unknown := [option for option in uses if option not in OPTIONS]:
        raise UserError(
            f"register: {name!r} uses {', '.join(unknown)}; "
            f"expected names among {', '.join(OPTIONS)}"
        )
    MODELS[name] = capabilities
    CUSTOM[name] = CustomModel(cls, config_class, uses)


def _check_config_class(name: str, config_class: Any) -> None:
    """Raise UserError unless a class can hold a custom model's settings."""
    if not (isinstance(config_class, type) and issubclass(config_class, ModelConfig)):
        raise UserError(
            f"register: config_class of {name!r} is {config_class!r}, "
            "expected a frozen dataclass that extends ModelConfig"
        )
    if config_class is not ModelConfig and "__dataclass_fields__" not in vars(config_class):
        raise UserError(
            f"register: config_class of {name!r} is not a dataclass; "
            "decorate it with @dataclasses.dataclass(frozen=True, kw_only=True)"
        )
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    for field in dataclasses.fields(config_class):
        if field.name not in known and type(field.default) not in OPTION_TYPES:
            raise UserError(
                f"register: option {field.name!r} of {name!r} has no default of type bool, int, "
                "float or str; give it one"
            )


def inferred(name: str, cls: type[nnx.Module]) -> Capabilities:
    """Return what a model can do by the methods that it has. Raises UserError if it has too few.

    A two-tower model whose `encode` has a parameter `every` is taken to be causal.
    """
    encode = getattr(cls, "encode", None)
    if encode is not None and hasattr(cls, "item_vectors"):
        is_causal = "every" in inspect.signature(encode).parameters
        return Capabilities(("last", "every") if is_causal else ("last",), sparse=False)
    if hasattr(cls, "score"):
        return Capabilities(("last",), is_two_tower=False, sparse=False)
    raise UserError(
        f"register: {name!r} has neither encode and item_vectors nor score; "
        "a model has the methods of TwoTower or of PairScorer (ttt4rec_jax.models.interface)"
    )


def register_inner(name: str, learner: Any) -> None:
    """Make an inner learner, an InnerLearner(init, apply), available as `inner=name`.

    Raises UserError if it is no InnerLearner, or the name is one of this package's.
    """
    if name in BUILT_IN_INNER:
        raise UserError(f"register_inner: {name!r} is part of this package; choose another name")
    if not isinstance(learner, InnerLearner):
        raise UserError(
            f"register_inner: {name!r} is {learner!r}, expected an InnerLearner(init, apply)"
        )
    INNER_LEARNERS[name] = learner
    if name not in INNER:
        INNER.append(name)


def class_name(cls: type) -> str:
    """Return the name "module:Class" by which a class can be imported."""
    return f"{cls.__module__}:{cls.__qualname__}"


def import_model(text: str, name: str = "") -> None:
    """Import and register the model that --model=module:Class names, unless it is registered.

    name: what to register it as, if not by that text. Raises UserError.
    """
    _import("model", text, name or text, MODELS, register)


def import_inner(text: str, name: str = "") -> None:
    """Import and register the inner learner that --inner=module:attribute names; else the same."""
    _import("inner", text, name or text, INNER, register_inner)


def _import(flag: str, text: str, name: str, known: Any, register: Callable[..., None]) -> None:
    if ":" not in text or name in known:
        return
    module_name, _, path = text.partition(":")
    if os.getcwd() not in sys.path:  # an installed command does not search the current folder
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module raises
        raise UserError(
            f"--{flag}: {text} cannot be imported ({type(error).__name__}: {first_line(error)}); "
            "expected module:name of a module in the current folder or on the Python path"
        ) from error
    register(name, found)
