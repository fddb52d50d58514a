"""What another library needs to be judged: clicks to learn from, and what to rank for whom.

Nothing in it tells a target from the other candidates. Prints nothing, imports no JAX.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from data_prep import arrays, atomic
from data_prep.index import is_training
from data_prep.settings import UserError
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.evaluation.candidates import shuffled_candidates
from ttt4rec_jax.runs import items as catalogue
from ttt4rec_jax.runs import verified

FILES = {
    "clicks": "user, item, time, is_training: all clicks that may be known. Train on those with "
    "is_training; a user's history is all of the user's rows, in order.",
    "candidates": "user, item: the items to score for --scores, in an order that says nothing.",
    "users": "user: whom to recommend items to, for --recommendations.",
    "items": "item, title if known, clicks: the catalogue, and training clicks on each item.",
}


class Candidates(NamedTuple):
    """Tables with the ids of the data, which FILES describes."""

    clicks: pl.DataFrame
    candidates: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame


def candidates(prepared: Path, dataset: Dataset) -> Candidates:
    """Return the tables for another library. prepared: the folder that `dataset` is loaded from.

    The clicks are the training clicks of all users and, of users with a test target, those before
    it; neither the target nor a click after it. The order of the candidates depends on data_seed.
    """
    users = pl.read_parquet(prepared / "users.parquet", columns=["id"])["id"]
    known = catalogue.from_prepared(prepared, dataset)
    items = pl.read_parquet(prepared / "items.parquet", columns=["id"])["id"]
    ends = dataset.train_ends.astype(np.int64)
    ends[dataset.test.users] = dataset.test.positions
    is_known = is_training(dataset.offsets, ends)
    user_E = np.repeat(np.arange(len(users)), np.diff(dataset.offsets))
    times = arrays.load(prepared / "timestamps.npy", mapped=True)
    clicks = pl.DataFrame(
        {
            "user": users.gather(user_E[is_known]),
            "item": items.gather(dataset.items[is_known] - 1),
            "time": np.asarray(times)[is_known],
            "is_training": is_training(dataset.offsets, dataset.train_ends)[is_known],
        }
    )
    pairs = shuffled_candidates(dataset, dataset.test, dataset.manifest["data_seed"])
    titles = {} if known.titles is None else {"title": known.titles}
    return Candidates(
        clicks,
        pl.DataFrame(
            {"user": users.gather(pairs["user"]), "item": items.gather(pairs["item"] - 1)}
        ),
        pl.DataFrame({"user": users.gather(dataset.test.users)}),
        pl.DataFrame({"item": items, **titles, "clicks": known.clicks}),
    )


def write(folder: Path, tables: Candidates, manifest: dict[str, Any]) -> None:
    """Write the tables as Parquet files into a new folder, and manifest.json, which describes them.

    manifest: that of the prepared data. Raises UserError if the folder cannot be written.
    """
    about = {
        "dataset": {name: manifest[name] for name in ("name", "sha256", "counts", "time_unit")},
        "split": manifest["split"],
        "negatives": manifest["negatives"],
        "files": {f"{name}.parquet": text for name, text in FILES.items()},
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic.folder(folder) as new:
            for name, table in tables._asdict().items():
                (new / f"{name}.parquet").write_bytes(verified.table_bytes(table))
            (new / "manifest.json").write_bytes(verified.json_bytes(about))
    except OSError as error:
        raise UserError(
            f"--output: {folder} cannot be written ({error.strerror}); name a new folder"
        ) from error
