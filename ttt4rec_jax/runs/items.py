"""The items of a run: ids and titles as the data has them, and their training clicks. Imports no JAX.

A run leaves them in its folder (`leave`), so that the folder alone serves, on any machine. Models
that are not trained are
functions of the training clicks: for those, the folder holds these as well.
"""

import dataclasses
import functools
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_prep.index import blocks
from data_prep.settings import UserError, first_line, nearest
from ttt4rec_jax.runs.folder import RunFolder, whole, write_table

SHOWN = 10  # unknown ids that an error lists


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Items 1..V: what stands at i - 1 is item i's."""

    ids: list  # integers or text, as in the data
    titles: list | None  # text, or None where the data has no title
    clicks: np.ndarray  # training clicks [V]

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def by_id(self) -> dict:
        """Item of an id, given as it is in the data or as text."""
        numbers = range(1, len(self.ids) + 1)
        return dict(zip(map(str, self.ids), numbers, strict=True)) | dict(zip(self.ids, numbers, strict=True))

    @functools.cached_property
    def most_clicked(self) -> np.ndarray:
        """Items by their training clicks, the first of equals first [V]."""
        return 1 + np.argsort(-self.clicks, kind="stable")

    def match(self, text: str):
        """The id, as it is in the data, that a text names; None if there is none."""
        item = self.by_id.get(text, 0)
        return self.ids[item - 1] if item else None

    def title(self, id) -> str:
        """The title of an id; "" if it has none."""
        item = self.by_id.get(id, 0)
        return (self.titles[item - 1] or "") if self.titles and item else ""

    def titled(self, text: str) -> list:
        """Ids whose titles hold a text, in any case."""
        folded = text.casefold()
        return [id for id, title in zip(self.ids, self.titles or (), strict=False) if folded in (title or "").casefold()]

    def find(self, histories: Iterable[Iterable], unknown: str = "error", what: str = "histories") -> list[np.ndarray]:
        """The items of ids, in order. unknown: "error", or "skip" to leave out ids that the data does not have.

        Raises UserError that lists them.
        """
        if unknown not in ("error", "skip"):
            raise UserError(f"unknown: {unknown!r} is not one of error, skip{nearest(unknown, ('error', 'skip'))}")
        item_of = self.by_id.get
        found = []
        missing = {}
        if isinstance(histories, (str, bytes)):
            raise UserError(f"{what}: found the text {histories!r}; expected a list of histories, each a list of ids")
        if not isinstance(histories, Iterable):
            raise UserError(f"{what}: found {histories!r}; expected a list of histories, each a list of ids")
        for history in histories:
            if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
                raise UserError(f"{what}: found the id {history!r}; expected a list of ids in its place, as [{history!r}]")
            history = list(history)
            try:
                items = [item_of(id, 0) for id in history]
            except TypeError as error:
                raise UserError(f"{what}: an id is a number or a text ({error})") from error
            if 0 in items:
                missing |= {str(id)[:60]: None for id, item in zip(history, items, strict=True) if not item}
                items = [item for item in items if item]
            found.append(np.array(items, np.int32))
        if missing and unknown == "error":
            listed = ", ".join(list(missing)[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
            raise UserError(
                f"{what}: {len(missing)} items that the run's data does not have: {listed}; "
                f"expected ids such as {self.ids[0]!r}, or unknown=skip"
            )
        return found


def read(path: Path) -> Catalogue:
    """The catalogue that a run left. Raises UserError if it cannot be read."""
    import polars as pl  # not at the top: --help need not wait for it

    try:
        table = pl.read_parquet(path)
        titles = table["title"].to_list() if "title" in table.columns else None
        return Catalogue(table["id"].to_list(), titles, table["clicks"].to_numpy())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); copy the run's folder anew") from error


def of_prepared(prepared: Path, dataset) -> Catalogue:
    """The catalogue of a prepared folder. dataset: the data.Dataset that was loaded from it."""
    import polars as pl

    table = pl.read_parquet(prepared / "items.parquet")
    titles = table["title"].to_list() if "title" in table.columns else None
    clicks = np.zeros(len(table) + 1, np.int64)
    for low, high in blocks(dataset.offsets):  # whole columns of a large data set would fill the memory
        begin = dataset.offsets[low]
        end = dataset.offsets[high]
        trained = np.arange(begin, end) < np.repeat(dataset.train_ends[low:high], np.diff(dataset.offsets[low : high + 1]))
        clicks += np.bincount(dataset.items[begin:end][trained], minlength=len(clicks))
    return Catalogue(table["id"].to_list(), titles, clicks[1:])


def leave(folder: RunFolder, found: Catalogue, dataset, is_trained: bool) -> None:
    """Writes what `read` and `training_clicks` read, each in one piece."""
    import polars as pl

    titles = {} if found.titles is None else {"title": found.titles}
    table = pl.DataFrame({"id": found.ids, **titles, "clicks": found.clicks})
    write_table(folder.catalogue, table)
    if not is_trained:
        trained = np.arange(len(dataset.items)) < np.repeat(dataset.train_ends, np.diff(dataset.offsets))
        counts = dataset.train_ends - dataset.offsets[:-1]
        arrays = {"items": dataset.items[trained], "offsets": np.concatenate([[0], np.cumsum(counts)])}
        with whole(folder.training_clicks) as file:
            np.savez_compressed(file, **arrays)


def training_clicks(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(items, offsets) of the training clicks that a run left. Raises UserError if they cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["items"], arrays["offsets"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); copy the run's folder anew") from error


def ids_of(prepared: Path) -> list:
    """The ids of a prepared folder's items."""
    import polars as pl

    return pl.read_parquet(prepared / "items.parquet", columns=["id"])["id"].to_list()


def history_of(prepared: Path, user: str) -> list[int]:
    """All clicks of a user, in order, as items. Raises UserError if there is no such user."""
    import polars as pl

    ids = pl.read_parquet(prepared / "users.parquet")["id"]
    rows = np.flatnonzero((ids.cast(pl.String) == str(user)).to_numpy())
    if not len(rows):
        raise UserError(f"--user: {user!r} is not among the {len(ids):,} users of {prepared}, such as {ids[0]}")
    offsets = np.load(prepared / "offsets.npy")
    return np.load(prepared / "items.npy", mmap_mode="r")[offsets[rows[0]] : offsets[rows[0] + 1]].tolist()
