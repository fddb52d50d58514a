"""All settings of one run, how they are saved, and which of them a resumed run may change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from data_prep.settings import DataConfig, UserError
from ttt4rec_jax.config import earlier
from ttt4rec_jax.config.models import (
    CUSTOM,
    MODELS,
    ModelConfig,
    check_imported,
    config_class,
    has_option,
    not_an_option,
    own_options,
)
from ttt4rec_jax.config.options import TTT
from ttt4rec_jax.config.training import EvalConfig, RecordConfig, TrainConfig

# What each value of --targets requires of a model, for the error message.
TARGETS_NEED = {
    "every": "a causal model",
    "masked": "a model with masked training",
    "last": "a model trained by windows",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run. Raises UserError if its sections contradict each other.

    Runs that differ only in what they record are equal.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    record: RecordConfig = dataclasses.field(default_factory=RecordConfig, compare=False)

    def __post_init__(self) -> None:
        if self.train.targets == "auto":
            targets = MODELS[self.model.model].targets[0]
            object.__setattr__(self, "train", dataclasses.replace(self.train, targets=targets))
        if has_option(self.model.model, "interest_rule"):
            model = dataclasses.replace(self.model, interest_rule=self.interest_rule)
            object.__setattr__(self, "model", model)
        self._check_targets()
        self._check_model_can()

    @property
    def interest_rule(self) -> str:
        """How a model with several interests is trained: --interest_rule, or what auto means."""
        if self.model.interest_rule != "auto":
            return self.model.interest_rule
        return "own" if self.train.loss in ("bce", "gbce") else "nearest"

    def _check_targets(self) -> None:
        """Raise UserError if the model cannot be trained as --targets says."""
        targets = self.train.targets
        name = self.model.model
        if targets not in MODELS[name].targets:
            models = ", ".join(other for other, can in MODELS.items() if targets in can.targets)
            raise UserError(
                f"--targets={targets} needs {TARGETS_NEED[targets]} ({models}), "
                f"which --model={name} is not"
            )
        if targets == "last" and self.train.batch_tokens:
            raise UserError(
                "--batch_tokens: only for --targets=every or masked; with --targets=last, "
                "give --batch_size"
            )

    def _check_model_can(self) -> None:
        """Raise UserError if the model does not support the loss, the records or the optimizer."""
        name = self.model.model
        model = MODELS[name]
        if self.train.loss == "softmax" and model.trained and not model.is_two_tower:
            raise UserError(
                f"--loss=softmax: --model={name} cannot score all items at each step; "
                "choose --loss=sampled_softmax"
            )
        if self.record.ttt_stats and name not in TTT:
            models = " or ".join(f"--model={model}" for model in TTT)
            raise UserError(
                f"--ttt_stats: --model={name} has no TTT layers; leave it out, or choose {models}"
            )
        if self.train.sparse_embeddings and self.model.time != "none":
            raise UserError(
                f"--sparse_embeddings: a model with --time={self.model.time} does not support it; "
                "leave one of them out"
            )
        if self.train.sparse_embeddings and not model.sparse:
            models = ", ".join(other for other, can in MODELS.items() if can.sparse)
            raise UserError(
                f"--sparse_embeddings: --model={name} does not support it, only {models} do; "
                "leave it out"
            )

    @classmethod
    def from_flags(cls, values: dict[str, Any]) -> "Config":
        """Return the settings that {option: value} describes; unknown options are ignored.

        Raises UserError, also for an option that only another custom model has.
        """
        classes = sections(values["model"])
        for model in CUSTOM:
            for name in own_options(model):
                default = getattr(config_class(model), name)
                is_given = values.get(name, default) != default
                if is_given and not hasattr(classes["model"], name):
                    raise not_an_option(name, values["model"])
        parts = {}
        for name, section in classes.items():
            names = [f.name for f in dataclasses.fields(section) if f.name in values]
            parts[name] = section(**{name: values[name] for name in names})
        return cls(**parts)

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Return the settings in a config.json."""
        return cls.from_dict(json.loads(path.read_text()))

    @classmethod
    def from_dict(cls, content: dict[str, dict]) -> "Config":
        """Return the settings that `to_dict` wrote; earlier versions had no section "record"."""
        content = {"record": {}} | content | {"model": earlier.model_settings(content["model"])}
        classes = sections(content["model"]["model"])
        return cls(**{name: section(**content[name]) for name, section in classes.items()})

    def to_dict(self) -> dict[str, dict]:
        """Return the content of config.json: {section: {flag: value}}."""
        return dataclasses.asdict(self)


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "record": RecordConfig,
}


def sections(model: str) -> dict[str, type]:
    """Return {section: class} of a run's settings, for the model's class. Raises UserError."""
    check_imported("model", model, MODELS)
    return SECTIONS | {"model": config_class(model)}


SWEPT = ("model", "train")  # the sections whose flags may list several values
MAY_CHANGE_ON_RESUME = ("epochs", "patience")


def check_resumable(saved: Config, requested: Config) -> None:
    """Raise UserError, naming the flag, if a setting differs that a resumed run must keep."""
    for section in (field.name for field in dataclasses.fields(Config) if field.compare):
        before = getattr(saved, section)
        now = getattr(requested, section)
        for field in dataclasses.fields(before):
            old = getattr(before, field.name)
            new = getattr(now, field.name)
            if old != new and not _may_change(field.name, saved):
                raise UserError(
                    f"--resume: the run was started with --{field.name}={old}, "
                    f"found --{field.name}={new}; "
                    "give the same value, or start a new run in another --run_dir"
                )


def _may_change(name: str, saved: Config) -> bool:
    """Return whether a resumed run may change a setting. A cosine schedule spans all epochs."""
    if name == "epochs" and saved.train.schedule == "cosine":
        return False
    return name in MAY_CHANGE_ON_RESUME


# Settings that change only values, not the compiled program.
ONE_PROGRAM = {
    "model": ("initializer_range", "fast_weight_range"),
    "train": ("learning_rate", "seed"),
}


def program(config: Config) -> Config:
    """Return the key of a configuration's program: ONE_PROGRAM's settings set to their defaults.

    Runs with equal keys are trained together by one compiled program.
    """
    shared = {}
    for section, names in ONE_PROGRAM.items():
        if section == "model" and config.model.model not in TTT:
            continue  # in other models, the ranges are not arguments of the program
        defaults = {
            f.name: f.default for f in dataclasses.fields(SECTIONS[section]) if f.name in names
        }
        shared[section] = dataclasses.replace(getattr(config, section), **defaults)
    return dataclasses.replace(config, **shared)
