"""Finished runs with simulated figures, which nothing has trained."""

import dataclasses
import json

import numpy as np
import polars as pl

from data_prep.settings import DataConfig
from ttt4rec_jax.config import Config
from ttt4rec_jax.metrics import Ranks, summarise
from ttt4rec_jax.paper import jobs as reproduce
from ttt4rec_jax.pipeline import result as report
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.runs.verified import DIGESTS
from ttt4rec_jax.training.progress import Outcome


def epoch_lines(epochs, full=True, start=0.1):
    """Lines of a metrics.jsonl."""
    lines = []
    for epoch in range(1, epochs + 1):
        figures = {
            f"{m}@{k}": start + 0.01 * epoch + k / 1000
            for m in ("ndcg", "hit")
            for k in (5, 10, 20)
        }
        validation = {"sampled": figures} | (
            {"full": {n: v / 10 for n, v in figures.items()}} if full else {}
        )
        lines.append({"epoch": epoch, "loss": 3 / epoch, "validation": validation, "seconds": 1.0})
    return lines


NUM_JOB_USERS = 400


def skill(config, good) -> float:
    """How good a simulated run is; good: {model: shift}."""
    model = config.model
    name = "ttt_mlp" if model.inner == "mlp" else model.model
    off_range = abs(np.log10(model.initializer_range / 0.03)) ** 2 if name == "ttt4rec" else 0.0
    between = 0.3 * (model.mini_batch_size in (2, 5))
    return good.get(name, 2.0) - 0.3 * off_range - between


def make_finished_job(job, output, good, seed_effect=0.02):
    """Leaves what a finished job leaves."""
    users = np.arange(NUM_JOB_USERS)
    for name, folder in job.folders(output).items():
        config = job.combinations[name]
        key = [
            config.train.seed,
            int(1000 * config.model.initializer_range),
            config.model.mini_batch_size,
            len(job.name),
        ]
        rng = np.random.default_rng(key)
        difficulty = np.random.default_rng(9).normal(0, 1.5, NUM_JOB_USERS)
        shift = skill(config, good)
        ranks = {
            p: simulated_ranks(rng, NUM_JOB_USERS, shift, seed_effect, difficulty)
            for p in ("sampled", "full")
        }
        figures = {p: summarise(r) for p, r in ranks.items()}
        epochs = config.train.epochs if config.model.model not in reproduce.BASELINES else 0
        slow = config.model.model.startswith("comirec")
        history = []
        for epoch in range(1, epochs + 1):
            share = 1 - np.exp(-epoch / (0.2 * epochs)) if slow else 0.97
            line = {
                p: {m: v * share if "@" in m and "ci" not in m else v for m, v in f.items()}
                for p, f in figures.items()
            }
            history.append({"epoch": epoch, "loss": 1 / epoch, "validation": line, "seconds": 2.0})
        folder.create(config)
        folder.write_metrics(history)
        result = {
            "model": config.model.model,
            "config": config.to_dict(),
            "dataset": {
                "name": config.data.dataset,
                "users": NUM_JOB_USERS,
                "items": 100,
                "interactions": 9 * NUM_JOB_USERS,
                "sha256": "ab" * 32,
            },
            "protocol": {
                n: f"{n} of {config.data.dataset}"
                for n in ("split", "training", "selection", "sampled", "full", "ties")
            },
            "platform": "cpu, 1 x cpu",
            "parameters": 1000,
            "best_epoch": epochs,
            "validation": figures,
            "test": figures,
            "seconds": {"total": 10.0},
        }
        folder.write_result(result, ranks, users)
        (folder.path / DIGESTS).unlink()  # tests change files; without digests they are read as is


def simulated_ranks(rng, users: int, shift: float, seed_effect: float, difficulty) -> Ranks:
    """Ranks among 99, by the users' difficulty, the training's luck, and chance."""
    score = shift + rng.normal(0, seed_effect) - difficulty + rng.normal(0, 1, users)
    greater = np.floor(100 / (1 + np.exp(score))).astype(int).clip(0, 99)
    return Ranks(greater, np.zeros(users, int), np.full(users, 99))


def make_finished_run(path, model="ttt4rec", seed=0, shift=2.0, users=300, change=None, **flags):
    """A run folder with simulated ranks. change: of (result, columns), before they are written."""
    values = {
        "data": DataConfig(dataset="synthetic"),
        "model": {},
        "train": {"seed": seed},
        "eval": {},
    }
    for flag, value in flags.items():
        section = next(
            s
            for s in ("model", "train", "eval")
            if flag in getattr(Config(), s).__dataclass_fields__
        )
        values[section][flag] = value
    default = Config()
    config = Config(
        data=values["data"],
        model=dataclasses.replace(
            default.model, target_tower="auto", model=model, **values["model"]
        ),
        train=dataclasses.replace(default.train, targets="auto", **values["train"]),
        eval=dataclasses.replace(default.eval, **values["eval"]),
    )
    rng = np.random.default_rng([seed, int(1000 * shift), len(model)])
    difficulty = np.random.default_rng(9).normal(0, 1.5, users)
    ranks = {
        name: simulated_ranks(rng, users, shift, 0.1, difficulty) for name in ("sampled", "full")
    }
    counts = {
        "users": users,
        "items": 100,
        "interactions": 9 * users,
        "validation": users,
        "test": users,
    }
    manifest = {"name": "synthetic", "counts": counts, "sha256": "ab" * 32}
    validation = {name: summarise(r) for name, r in ranks.items()}
    outcome = Outcome(
        [], 1, 1000, validation, ranks, {"compile": 0.0, "epochs": [], "evaluate": 0.0}
    )
    folder = RunFolder(path)
    folder.create(config)
    folder.write_result(
        report.result(config, manifest, outcome, {}, "cpu"), ranks, np.arange(users)
    )
    (path / DIGESTS).unlink()  # tests change files; without digests they are read as they are
    if change:
        result = json.loads(folder.result.read_text())
        columns = pl.read_parquet(folder.ranks).to_dict(as_series=False)
        change(result, columns)
        folder.result.write_text(json.dumps(result))
        pl.DataFrame(columns).write_parquet(folder.ranks)
    return path
