"""Train, evaluate and serve sequential recommenders with test-time-training layers, in JAX.

The names below are imported on first use: importing the package imports neither JAX nor polars.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.settings import UserError, option
    from ttt4rec_jax.api.compare import Comparison, compare
    from ttt4rec_jax.api.data import Data, candidates, datasets, prepare
    from ttt4rec_jax.api.evaluate import evaluate
    from ttt4rec_jax.api.rolling import rolling
    from ttt4rec_jax.api.run import Run, load
    from ttt4rec_jax.api.search import SearchResult, search
    from ttt4rec_jax.api.train import sweep, train
    from ttt4rec_jax.config import Capabilities, Config, ModelConfig
    from ttt4rec_jax.models.custom import register, register_inner
    from ttt4rec_jax.pipeline.devices import enable_compilation_cache as enable_program_cache
    from ttt4rec_jax.serving.recommender import Recommendation, Recommender, Session
    from ttt4rec_jax.training.interrupt import Interrupted
    from ttt4rec_jax.ttt.inner import InnerLearner

# {name: (module, its name there)}
NAMES = {
    "Capabilities": ("config", "Capabilities"),
    "Comparison": ("api.compare", "Comparison"),
    "Config": ("config", "Config"),
    "Data": ("api.data", "Data"),
    "InnerLearner": ("ttt.inner", "InnerLearner"),
    "Interrupted": ("training.interrupt", "Interrupted"),
    "ModelConfig": ("config", "ModelConfig"),
    "Recommendation": ("serving.recommender", "Recommendation"),
    "Recommender": ("serving.recommender", "Recommender"),
    "Run": ("api.run", "Run"),
    "SearchResult": ("api.search", "SearchResult"),
    "Session": ("serving.recommender", "Session"),
    "candidates": ("api.data", "candidates"),
    "compare": ("api.compare", "compare"),
    "datasets": ("api.data", "datasets"),
    "enable_program_cache": ("pipeline.devices", "enable_compilation_cache"),
    "evaluate": ("api.evaluate", "evaluate"),
    "load": ("api.run", "load"),
    "prepare": ("api.data", "prepare"),
    "register": ("models.custom", "register"),
    "register_inner": ("models.custom", "register_inner"),
    "rolling": ("api.rolling", "rolling"),
    "search": ("api.search", "search"),
    "sweep": ("api.train", "sweep"),
    "train": ("api.train", "train"),
}
OF_SETTINGS = ("UserError", "option")

__all__ = [
    "Capabilities",
    "Comparison",
    "Config",
    "Data",
    "InnerLearner",
    "Interrupted",
    "ModelConfig",
    "Recommendation",
    "Recommender",
    "Run",
    "SearchResult",
    "Session",
    "UserError",
    "candidates",
    "compare",
    "datasets",
    "enable_program_cache",
    "evaluate",
    "load",
    "option",
    "prepare",
    "register",
    "register_inner",
    "rolling",
    "search",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a name of the interface when it is first used."""
    if name in OF_SETTINGS:
        return getattr(importlib.import_module("data_prep.settings"), name)
    if name in NAMES:
        # Raises UserError: an untried version of a library is one line, not an ImportError inside.
        importlib.import_module("ttt4rec_jax.config.requirements").check_requirements()
        module, attribute = NAMES[name]
        return getattr(importlib.import_module(f"ttt4rec_jax.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the interface, for completion."""
    return sorted(__all__)
