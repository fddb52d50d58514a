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


def skill(config, good) -> float:
    """How good a simulated run is; good: {model: NDCG@5}."""
    model = config.model
    name = "ttt_mlp" if model.inner == "mlp" else model.model
    off_range = abs(np.log10(model.initializer_range / 0.03)) ** 2 if name == "ttt4rec" else 0.0
    between = 0.03 * (model.mini_batch_size in (2, 5))
    return good.get(name, 0.3) - 0.03 * off_range - between


def simulated_line(job, good, seed_effect=0.003, slow=20):
    """Return the line of results.jsonl of a job that nothing has trained.

    slow: the epoch at which ComiRec is near its best.
    """
    runs = []
    for config in job.combinations.values():
        model = config.model
        key = [config.train.seed, int(1e5 * model.initializer_range), model.mini_batch_size]
        rng = np.random.default_rng([*key, *job.name.encode()])
        value = skill(config, good) + rng.normal(0, seed_effect)
        metrics = {name: value * factor for name, factor in METRIC_FACTORS.items()}
        metrics = {"sampled": metrics, "full": {name: x / 10 for name, x in metrics.items()}}
        if not config.eval.full_catalogue:
            del metrics["full"]
        epochs = min(config.train.epochs, 60) if model.model not in reproduce.BASELINES else 0
        share = slow if model.model.startswith("comirec") else 0.3
        run = {
            "seed": config.train.seed,
            "best_epoch": epochs,
            "validation": metrics,
            "test": metrics,
            "epochs": [value * (1 - np.exp(-epoch / share)) for epoch in range(1, epochs + 1)],
            "epoch_seconds": 2.0,
        }
        if "figure3" in job.name:
            run["initializer_range"] = model.initializer_range
            run["mini_batch_size"] = model.mini_batch_size
        runs.append(run)
    aspects = ("split", "training", "selection", "sampled", "full", "ties")
    dataset = job.name.split("/")[1]
    return {
        "job": job.name,
        "settings": list(job.settings),
        "seconds": 60.0,
        "environment": {"hardware": "a machine", "versions": {"jax": "0.1"}},
        "dataset": {"users": 400, "items": 100, "interactions": 3600, "sha256": "ab" * 32},
        "protocol": {name: f"{name} of {dataset}" for name in aspects},
        "platform": "cpu, 1 x cpu",
        "runs": runs,
    }


METRIC_FACTORS = {"ndcg@5": 1.0, "ndcg@10": 1.2, "hit@5": 1.4, "hit@10": 1.8}


def simulated_ranks(rng, users: int, shift: float, seed_effect: float, difficulty) -> Ranks:
    """Ranks among 99, by the users' difficulty, the training's luck, and chance."""
    score = shift + rng.normal(0, seed_effect) - difficulty + rng.normal(0, 1, users)
    greater = np.floor(100 / (1 + np.exp(score))).astype(int).clip(0, 99)
    return Ranks(greater, np.zeros(users, int), np.full(users, 99))


def make_finished_run(path, model="ttt4rec", seed=0, shift=2.0, users=300, change=None, **flags):
    """A run folder with simulated ranks. change: of (result, columns), before they are written."""
    values = {
        "data": DataConfig(dataset="synthetic"),
        "model": {"target_tower": "auto"},
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
        model=dataclasses.replace(default.model, model=model, **values["model"]),
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
