"""Load a run's best model and the items that it ranks from the run's folder, on any machine."""

import functools
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.prepare import prepare
from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, Config, ModelConfig
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax.models import TrainingClicks, custom
from ttt4rec_jax.parallel.backend import check_backend
from ttt4rec_jax.runs import items, read, verified
from ttt4rec_jax.runs.checkpoint import Checkpoints
from ttt4rec_jax.runs.folder import RunFolder, load_config
from ttt4rec_jax.runs.items import Catalogue

Params: TypeAlias = dict[str, Any]  # a pytree of arrays


def load_run(
    run_dir: str | Path, data_dir: str | Path = "", cache_dir: str | Path = ""
) -> tuple[ModelConfig, nnx.GraphDef, Params, Catalogue]:
    """Return (model settings, graphdef, parameters of the best epoch, items) of a run.

    These are the arguments of Recommender. data_dir, cache_dir: where to find the data of a run of
    an earlier version, which saved no catalogue.parquet. Raises UserError.
    """
    folder = RunFolder(Path(run_dir))
    if read.is_sweep(folder.path):
        raise UserError(f"{folder.path}: a sweep; name the folder of one of its combinations")
    if not folder.config.exists():
        raise UserError(
            f"{folder.path}: no config.json, so it holds no run; name the folder of a run"
        )
    config = load_config(folder.config)
    check_backend()
    catalogue, training = _items_and_clicks(folder, config, data_dir, cache_dir)
    size = len(catalogue)
    build = functools.partial(
        models.build, config.model, size, config.train.seed, training=training
    )
    if not MODELS[config.model.model].trained:
        graphdef, params = nnx.split(build(), nnx.Param)
        return config.model, graphdef, nnx.to_pure_dict(params), catalogue
    graphdef, params = nnx.split(nnx.eval_shape(build), nnx.Param)
    return config.model, graphdef, _best_params(folder, nnx.to_pure_dict(params)), catalogue


def check_fits(folder: RunFolder, config: Config, num_items: int) -> None:
    """Raise UserError if the best parameters in a folder are not those of a model of its settings.

    Only shapes are compared, and nothing is computed, so that no memory is taken for absurd sizes.
    """
    if MODELS[config.model.model].trained and folder.best.is_dir():
        build = functools.partial(models.build, config.model, num_items, config.train.seed)
        params = nnx.state(nnx.eval_shape(build), nnx.Param)
        Checkpoints(folder.best).check_shapes(nnx.to_pure_dict(params))


def _best_params(folder: RunFolder, like: Params) -> Params:
    """Return the parameters of the best epoch. like: a tree of their shapes. Raises UserError."""
    advice = "train the run for at least one epoch, or copy its folder again"
    if not folder.best.is_dir():
        raise UserError(f"{folder.path}: no checkpoints/best; {advice}")
    checkpoints = Checkpoints(folder.best)
    checkpoints.check_shapes(like)
    # Zeros on a device of this machine: the checkpoint may name another machine's devices.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    checkpoint = checkpoints.load(zeros)
    if checkpoint is None:
        raise UserError(f"{folder.best}: holds no checkpoint; {advice}")
    params, _ = checkpoint
    return params


def _items_and_clicks(
    folder: RunFolder, config: Config, data_dir: str | Path, cache_dir: str | Path
) -> tuple[Catalogue, TrainingClicks | None]:
    """Return a run's items and its training clicks; None for a trained model, which needs none."""
    is_trained = MODELS[config.model.model].trained
    if folder.catalogue.exists() and (is_trained or folder.training_clicks.exists()):
        catalogue = items.read(folder.catalogue)
        if is_trained:
            return catalogue, None
        clicks, offsets = items.training_clicks(folder.training_clicks)
        return catalogue, TrainingClicks(clicks, offsets, offsets[1:])
    try:
        prepared = prepare(config.data, data_dir, cache_dir)
    except UserError as error:
        raise UserError(
            f"{folder.path}: has no {folder.catalogue.name} (a run of an earlier version?), "
            f"and its data cannot be prepared: {error}"
        ) from error
    dataset = load_dataset(prepared)
    if expected := read.data_digest(folder.path):
        actual = dataset.manifest["sha256"]
        if actual != expected:
            raise UserError(
                f"{folder.path}: its data had sha256 {expected[:16]}, {prepared} has "
                f"{actual[:16]}; give the data that it was trained on"
            )
    return items.from_prepared(prepared, dataset), TrainingClicks.from_dataset(dataset)


def provide(run_dir: Path, model: Any, inner: Any) -> None:
    """Register a model and an inner learner under the names in a run's settings.

    Raises UserError.
    """
    if model is None and inner is None:
        return
    try:
        saved = verified.load_json(RunFolder(run_dir).config)["model"]
        names = {"model": str(saved["model"]), "inner": str(saved["inner"])}
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run_dir}: holds no run; name the folder of a run") from error
    if isinstance(model, str):
        custom.import_model(model, names["model"])
    elif model is not None:
        custom.register(names["model"], model)
    if isinstance(inner, str):
        custom.import_inner(inner, names["inner"])
    elif inner is not None:
        custom.register_inner(names["inner"], inner)
