"""Small data sets in memory, configurations that compile quickly, and their runs."""

import collections
import contextlib
import dataclasses

import numpy as np
import pytest

from data_prep import synthetic
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig, program
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.runs.checkpoint import Checkpoints
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import fit
from ttt4rec_jax.training.compile import Executables, compile_runs
from ttt4rec_jax.training.program import make_program


@contextlib.contextmanager
def few_users(folder, users):
    """Let the synthetic data have few users, prepared below a folder; yield pytest's patch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "USERS", users)
        patch.setenv("TTT4REC_CACHE_DIR", str(folder / "prepared"))
        yield patch


def make_dataset(
    sequences: list[list[int]], num_items: int, num_negatives: int = 5, seed: int = 0
) -> Dataset:
    """A leave-one-out data set of users' item sequences; users of under three clicks only train."""
    rng = np.random.default_rng(seed)
    counts = np.array([len(s) for s in sequences])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    users = np.flatnonzero(counts >= 3)
    train_ends = np.where(counts >= 3, offsets[1:] - 2, offsets[1:])

    def targets(back):
        free = [np.setdiff1d(np.arange(1, num_items + 1), sequences[u]) for u in users]
        negatives = np.stack([rng.choice(f, num_negatives, replace=False) for f in free]).astype(
            np.int32
        )
        return Targets(
            (offsets[users + 1] - back).astype(np.int32), users.astype(np.int32), negatives
        )

    counts = {"users": len(sequences), "items": num_items, "interactions": int(offsets[-1])}
    manifest = {"name": "test", "counts": counts, "sha256": "0" * 64}
    items = np.concatenate(sequences).astype(np.int32)
    return Dataset(manifest, items, offsets, train_ends, targets(2), targets(1))


def small_config(model=None, **train):
    """A configuration that compiles quickly: one length of histories, unless it says otherwise."""
    sizes = {"dim": 8, "max_len": 4}
    if "model" not in (model or {}):
        sizes |= {"mini_batch_size": 2, "initializer_range": 0.3}
    return Config(
        model=ModelConfig(**sizes | (model or {})),
        train=TrainConfig(
            **{"batch_size": 64, "learning_rate": 0.01, "epochs": 2, "length_buckets": 1} | train
        ),
    )


def config_of(model: str, sizes: dict, **train) -> Config:
    """A configuration of any trained model, with dropout and a few negatives."""
    own = {"iclrec": {"num_intents": 3}, "ttt4rec": {"mini_batch_size": 2}}.get(model, {})
    shared = {"num_negatives": 3, "learning_rate": 0.01, "epochs": 2}
    return Config(
        model=ModelConfig(model=model, dropout=0.2, **sizes, **own),
        train=TrainConfig(**shared | train),
    )


CACHED: collections.OrderedDict = collections.OrderedDict()
MOST_CACHED = 6  # compiled programs in memory


def compiled(configs, dataset, mesh=None) -> Executables:
    """The executables of some runs; compiled once for all settings that do not change them."""

    def shared(config):
        train = config.train
        if train.schedule != "cosine":
            train = dataclasses.replace(train, epochs=1, patience=0)
        return program(dataclasses.replace(config, train=train)), config.record.ttt_stats

    seeds = len({config.train.seed for config in configs})
    key = (*map(shared, configs), seeds == 1, id(dataset), mesh and (mesh.data, mesh.model))
    if key not in CACHED:
        CACHED[key] = compile_runs(configs, dataset, mesh)
        if len(CACHED) > MOST_CACHED:
            CACHED.popitem(last=False)
        return CACHED[key]
    CACHED.move_to_end(key)
    return CACHED[key].for_program(make_program(configs, dataset, mesh))


def fit_runs(configs, dataset, folder, executables=None, mesh=None, **options) -> list:
    """The outcomes of runs, trained in folder/0, folder/1, ...; of one in the folder itself."""
    group = RunFolder(folder)
    names = [""] if len(configs) == 1 else map(str, range(len(configs)))
    folders = [RunFolder(folder / name) for name in names]
    for config, run_folder in zip(configs, folders, strict=True):
        run_folder.create(config)
    executables = executables or compiled(configs, dataset, mesh)
    return fit.fit(executables, group, folders, **{"log": lambda line: None} | options)


def fit_run(config, dataset, folder, executables=None, mesh=None, **options):
    """The outcome of one run."""
    (outcome,) = fit_runs([config], dataset, folder, executables, mesh, **options)
    return outcome


def last_state(executables, folder):
    training = executables.program.training
    checkpoints = Checkpoints(RunFolder(folder).last)
    (state, _), _ = checkpoints.load((training.first_state, training.first_sums))
    return state


def without_times(history):
    return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in history]
