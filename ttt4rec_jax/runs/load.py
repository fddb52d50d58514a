"""A run's folder -> the model it chose and the items it ranks. The folder alone suffices, on any machine."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from data_prep.prepare import prepare
from data_prep.settings import UserError
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.data.dataset import load_dataset
from ttt4rec_jax import models
from ttt4rec_jax.models import TrainingClicks
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.runs.checkpoint import Checkpoints
from ttt4rec_jax.config import MODELS, Config, ModelConfig
from ttt4rec_jax.runs.folder import RunFolder, load_config


def load_run(
    run_dir: str | Path, data_dir: str | Path = "", cache_dir: str | Path = ""
) -> tuple[ModelConfig, nnx.GraphDef, dict, Catalogue]:
    """(settings of the model, graphdef, parameters of the best epoch, items): Recommender's arguments. Raises UserError.

    data_dir, cache_dir: where to find the data of a run of an earlier version, which left no
    catalogue.parquet.
    """
    folder = RunFolder(Path(run_dir))
    if (folder.path / "sweep.json").exists():
        raise UserError(f"{folder.path}: a sweep; name the folder of one of its combinations")
    if not folder.config.exists():
        raise UserError(f"{folder.path}: no config.json, so it holds no run; name the folder of a run")
    config = load_config(folder.config)
    items, training = _items_and_clicks(folder, config, data_dir, cache_dir)
    build = functools.partial(models.build, config.model, len(items), config.train.seed, training=training)
    if not MODELS[config.model.model].trained:
        graphdef, params = nnx.split(build(), nnx.Param)
        return config.model, graphdef, nnx.to_pure_dict(params), items
    graphdef, params = nnx.split(nnx.eval_shape(build), nnx.Param)
    return config.model, graphdef, _best(folder, nnx.to_pure_dict(params)), items


def _best(folder: RunFolder, like: dict) -> dict:
    """The parameters of the best epoch. like: a tree of their shapes."""
    train_it = "train the run for an epoch at least, or copy its folder anew"
    if not folder.best.is_dir():
        raise UserError(f"{folder.path}: no checkpoints/best; {train_it}")
    # zeros on this machine's device, since the checkpoint may name another's
    found = Checkpoints(folder.best).load(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))
    if found is None:
        raise UserError(f"{folder.best}: holds no checkpoint; {train_it}")
    return found[0]


def _items_and_clicks(
    folder: RunFolder, config: Config, data_dir: str | Path, cache_dir: str | Path
) -> tuple[Catalogue, TrainingClicks | None]:
    """Return a run's items and the training clicks, None where a trained model needs none."""
    is_trained = MODELS[config.model.model].trained
    if folder.catalogue.exists() and (is_trained or folder.training_clicks.exists()):
        items = catalogue.read(folder.catalogue)
        if is_trained:
            return items, None
        clicks, offsets = catalogue.training_clicks(folder.training_clicks)
        return items, TrainingClicks(clicks, offsets, offsets[1:])
    try:
        prepared = prepare(config.data, data_dir, cache_dir)
    except UserError as error:
        raise UserError(f"{folder.path}: has no {folder.catalogue.name} (a run of an earlier version?), and {error}") from error
    dataset = load_dataset(prepared)
    if folder.result.exists():
        expected = json.loads(folder.result.read_text())["dataset"]["sha256"]
        found = dataset.manifest["sha256"]
        if found != expected:
            what = f"its data had sha256 {expected[:16]}, {prepared} has {found[:16]}"
            raise UserError(f"{folder.path}: {what}; give the data that it was trained on")
    return catalogue.of_prepared(prepared, dataset), TrainingClicks.from_dataset(dataset)
