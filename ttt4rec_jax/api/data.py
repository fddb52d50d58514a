"""Prepared data in Python: `prepare` and what it returns."""

import dataclasses
import functools
import html
import logging
import time
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from data_prep import frames, summary
from data_prep.catalogue import CATALOGUE
from data_prep.prepare import prepare as prepare_folder
from data_prep.settings import DataConfig, UserError, nearest
from ttt4rec_jax.data.dataset import Dataset, load_dataset
from ttt4rec_jax.pipeline import candidates as tables
from ttt4rec_jax.pipeline.candidates import Candidates
from ttt4rec_jax.runs import items as catalogue

logger = logging.getLogger(__name__)
OF_FRAMES = ("user_col", "item_col", "time_col", "where")  # options that choose columns
Source: TypeAlias = Any  # a name, a path, or a DataFrame of polars or pandas


class Data:
    """A prepared data set.

    config: the settings that it was prepared with. folder: where it is stored, so that preparing
    the same data again takes no time. seconds: how long preparation took.
    """

    def __init__(self, config: DataConfig, folder: Path, seconds: float = 0.0) -> None:
        self.config = config
        self.folder = folder
        self.seconds = seconds

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The prepared arrays; items are the numbers 1..V, which `items` translates to ids."""
        return load_dataset(self.folder)

    @property
    def num_users(self) -> int:
        """The number of users."""
        return self.dataset.manifest["counts"]["users"]

    @property
    def num_items(self) -> int:
        """The number of items, V."""
        return self.dataset.num_items

    @property
    def num_interactions(self) -> int:
        """The number of clicks."""
        return self.dataset.manifest["counts"]["interactions"]

    @functools.cached_property
    def items(self) -> pl.DataFrame:
        """A row for each item: its number, its id in your data, its title, its training clicks."""
        of_folder = catalogue.from_prepared(self.folder, self.dataset)
        titles = {} if of_folder.titles is None else {"title": of_folder.titles}
        numbers = range(1, len(of_folder) + 1)
        return pl.DataFrame(
            {"item": numbers, "id": of_folder.ids, **titles, "clicks": of_folder.clicks}
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What to check first: the rows that were read and dropped, repeats, ties, the times."""
        manifest = self.dataset.manifest
        return {"rows": manifest["rows"], **manifest["summary"]}

    @property
    def notices(self) -> list[str]:
        """What looks odd in these data, each in a sentence; [] if nothing does."""
        return summary.notices_of(self.dataset.manifest)

    def describe(self) -> str:
        """Return what the command line prints about the data."""
        return "\n".join(summary.lines(self.dataset.manifest))

    def __repr__(self) -> str:
        """Return the data set's name and size in one line."""
        manifest = self.dataset.manifest
        return (
            f"Data({manifest['name']}: {self.num_users:,} users, {self.num_items:,} items, "
            f"{self.num_interactions:,} interactions, sha256 {manifest['sha256'][:16]})"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<code>{html.escape(repr(self))}</code>"


def prepare(
    dataset: Source, *, data_dir: str | Path = "", cache_dir: str | Path = "", **options: Any
) -> Data:
    """Prepare a data set: filter, number the ids, order, split, and draw evaluation sets.

    Args:
        dataset: The name of a known data set, such as "ml1m" or "amazon2014:Toys_and_Games" (see
            `datasets`), the path of a file, a folder or a pattern, or a DataFrame of polars or
            pandas with a row for each click and columns of user, item and time.
        data_dir: Where the archives of known data sets are, or are downloaded to; by default
            $TTT4REC_DATA_DIR or a folder in the user's cache.
        cache_dir: Where prepared data are kept; by default $TTT4REC_CACHE_DIR or a folder in the
            user's cache.
        options: The flags of the command line's section on data, such as user_core, split,
            eval_negatives, user_col, where.

    Raises UserError if the data or an option is wrong.
    """
    started = time.perf_counter()
    known = {field.name for field in dataclasses.fields(DataConfig)} - {"dataset"}
    for name in options:
        if name not in known:
            raise UserError(f"{name}: prepare has no such option{nearest(name, known)}")
    if frames.is_frame(dataset):
        columns = {name: options.get(name, "") for name in OF_FRAMES}
        dataset = frames.store(dataset, cache_dir, **columns)
    elif not isinstance(dataset, str | Path):
        raise UserError(
            f"dataset: {type(dataset).__name__}, expected a name, a path or a DataFrame"
        )
    config = DataConfig(dataset=str(dataset), **options)
    folder = prepare_folder(config, data_dir, cache_dir)
    data = Data(config, folder, time.perf_counter() - started)
    for notice in data.notices:
        logger.warning("%s", notice)
    return data


def datasets() -> pl.DataFrame:
    """Return a row for each data set that `prepare` knows by name.

    clicks is what its publisher counts, and megabytes the size of the download; null if unknown.
    user_core and item_core are the default filters. If by_hand is not empty, it says how a person
    gets the file, since it cannot be downloaded otherwise.
    """
    columns = "name title clicks megabytes by_hand user_core item_core note licence citation page"
    table = pl.DataFrame(
        [{name: getattr(source, name) for name in columns.split()} for source in CATALOGUE.values()]
    )
    counts = pl.col("clicks", "megabytes")
    return table.with_columns(pl.when(counts > 0).then(counts))


def candidates(data: Data | Source) -> Candidates:
    """Return what another library needs to be judged: clicks, candidates, users and items.

    Each is a polars DataFrame with the ids of the data. clicks: those that may be known, in order,
    with is_training; a user's history is all of them. candidates: the pairs to score, in an order
    that does not tell the target. users: whom to recommend items to. items: the catalogue.
    """
    data = as_data(data)
    return tables.candidates(data.folder, data.dataset)


def as_data(data: Data | Source) -> Data:
    """Return prepared data; a name, a path or a DataFrame is prepared with default options."""
    return data if isinstance(data, Data) else prepare(data)
