"""Models that serve, their cases, and files of histories."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
from flax import nnx

from data_prep.index import is_training
from helpers.runs import make_dataset
from ttt4rec_jax import models
from ttt4rec_jax.config import MODELS, ModelConfig
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving.recommender import Recommender

D = 8
L = 6
V = 30
STREAMS = {
    "b1": {"mini_batch_size": 1},
    "b4": {"mini_batch_size": 4, "num_blocks": 2, "ffn": "none"},
    "b10": {"mini_batch_size": 10, "score": "cosine"},
    "mlp": {"mini_batch_size": 4, "inner": "mlp"},
    "mamba": {"mini_batch_size": 4, "backbone": "mamba"},
    "filter": {"mini_batch_size": 4, "num_blocks": 2, "block": "filter"},
}


def serving_config(model: str, **more) -> ModelConfig:
    sizes = {"dim": D, "max_len": L}
    sizes |= {"initializer_range": 0.3} if model == "ttt4rec" else {}
    sizes |= {"num_intents": 5} if model == "iclrec" else {}
    return ModelConfig(model=model, **sizes | more)


def split_model(config: ModelConfig, dataset):
    """(graphdef, params) of a model whose embeddings are wide enough to tell scores apart."""
    training = models.TrainingClicks.from_dataset(dataset)
    model = models.build(config, dataset.num_items, 0, training=training)
    graphdef, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    if "embedding" in params:
        params["embedding"] = params["embedding"] * 20
    for name, table in params.get("gaps", {}).items():
        params["gaps"][name] = table * 20
    return graphdef, params


def timed_dataset():
    """Clicks at the same second, half a minute, an hour and two days apart."""
    rng = np.random.default_rng(4)
    lengths = rng.integers(2, 14, 30)
    data = make_dataset([rng.integers(1, V + 1, n).tolist() for n in lengths], V)
    gaps = rng.choice([0, 30, 3600, 40 * 3600], lengths.sum())
    manifest = data.manifest | {"time_unit": "seconds"}
    return dataclasses.replace(data, timestamps=np.cumsum(gaps), manifest=manifest)


def catalogue_of(dataset, titles=None) -> Catalogue:
    """Ids are hundreds of the items' numbers, so that none is taken for the other."""
    trained = is_training(dataset.offsets, dataset.train_ends)
    clicks = np.bincount(dataset.items[trained], minlength=dataset.num_items + 1)[1:]
    return Catalogue([100 * i for i in range(1, dataset.num_items + 1)], titles, clicks)


def make_recommender(config: ModelConfig, dataset, titles=None) -> Recommender:
    return Recommender(config, *split_model(config, dataset), catalogue_of(dataset, titles))


def assert_same_lists(a, b, rtol=2e-4):
    """Two recommendations agree, but for items whose scores rounding may swap."""
    assert a.source == b.source
    np.testing.assert_allclose(a.scores, b.scores, rtol=rtol, atol=rtol)
    assert set(a.ids) == set(b.ids)
    for x, y, score in zip(a.ids, b.ids, a.scores, strict=True):
        assert x == y or np.isclose(
            score, dict(zip(b.ids, b.scores, strict=True))[x], rtol=rtol, atol=rtol
        )


# name of a case: the options of the model that it begins with
SERVING_CASES = {name: {} for name in MODELS if name != "ttt4rec"} | {
    f"ttt4rec {name}": options for name, options in STREAMS.items()
}
HISTORIES = {"ann": [3, 7, 3], "bob": [], "cid": [12]}


def write_histories(folder: Path) -> None:
    """Write HISTORIES in every format; files with one row per click do not contain bob."""
    lists = pl.DataFrame(
        {"user": list(HISTORIES), "items": list(HISTORIES.values())},
        schema_overrides={"items": pl.List(pl.Int64)},
    )
    lists.write_parquet(folder / "lists.parquet")
    lists.write_ndjson(folder / "lists.jsonl")
    (folder / "lists.csv").write_text(
        "\ufeffnote,user,items\r\n"
        + "".join(f'"a,\nb",{u},{" ".join(map(str, c))}\n' for u, c in HISTORIES.items())
    )
    rows = lists.explode("items").drop_nulls().rename({"items": "item"})
    rows.write_parquet(folder / "rows.parquet")
    rows.write_csv(folder / "rows.csv")
    rows.write_ndjson(folder / "rows.jsonl")
