"""The settings of a run: frozen, and checked when created. Imports no JAX, to fail early.

models: what each model can do, ModelConfig. options: which models have which. earlier: settings
that earlier versions saved. training: TrainConfig, EvalConfig, RecordConfig.
run: Config, which holds them all. Data preparation's settings are in data_prep.settings.
"""

from ttt4rec_jax.config.capabilities import MODELS, Capabilities
from ttt4rec_jax.config.models import ModelConfig
from ttt4rec_jax.config.options import OPTIONS, TTT
from ttt4rec_jax.config.run import (
    SECTIONS,
    SWEPT,
    Config,
    check_resumable,
    program,
)
from ttt4rec_jax.config.training import EvalConfig, RecordConfig, TrainConfig

__all__ = [
    "MODELS",
    "OPTIONS",
    "SECTIONS",
    "SWEPT",
    "TTT",
    "Capabilities",
    "Config",
    "EvalConfig",
    "ModelConfig",
    "RecordConfig",
    "TrainConfig",
    "check_resumable",
    "program",
]
