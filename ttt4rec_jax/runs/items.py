"""The items of a run: their ids and titles as in the data, and their training clicks.

A run saves them in its folder (`save`), so that the folder alone is enough to serve on any machine.
A model that is not trained is a function of the training clicks, so its folder holds them as well.
Imports no JAX.
"""

import dataclasses
import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from data_prep import arrays
from data_prep.files import read_json
from data_prep.index import blocks, is_training
from data_prep.settings import UserError, first_line, nearest
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.runs import verified
from ttt4rec_jax.runs.folder import RunFolder

Id: TypeAlias = int | str
MAX_LISTED = 10  # unknown ids that an error lists


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Items 1..V; item i is at index i - 1."""

    ids: list[Id]  # integers or text, as in the data
    titles: list[str | None] | None  # None where the data has no titles
    clicks: np.ndarray  # training clicks [V]

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def by_id(self) -> dict[Id, int]:
        """The item of each id, given as in the data or as text."""
        numbers = range(1, len(self.ids) + 1)
        by_text: dict[Id, int] = dict(zip(map(str, self.ids), numbers, strict=True))
        return by_text | dict(zip(self.ids, numbers, strict=True))

    @functools.cached_property
    def most_clicked(self) -> np.ndarray:
        """Items by descending training clicks [V]; ties in ascending order."""
        return 1 + np.argsort(-self.clicks, kind="stable")

    def get(self, text: str) -> Id | None:
        """Return the id, as in the data, that equals a text; None if there is none."""
        item = self.by_id.get(text, 0)
        return self.ids[item - 1] if item else None

    def title(self, id: Id) -> str:
        """Return the title of an id; "" if it has none."""
        item = self.by_id.get(id, 0)
        return (self.titles[item - 1] or "") if self.titles and item else ""

    def search(self, text: str) -> list[Id]:
        """Return the ids whose titles contain a text, ignoring case."""
        folded = text.casefold()
        return [
            id
            for id, title in zip(self.ids, self.titles or (), strict=False)
            if folded in (title or "").casefold()
        ]

    def encode(
        self,
        histories: Iterable[Iterable[Any]],
        unknown: str = "error",
        what: str = "histories",
        keep_unknown: bool = False,
    ) -> list[np.ndarray]:
        """Return the items of each history's ids, in order.

        unknown: "error", or "skip" to leave out ids that are not in the data; keep_unknown: 0 in
        their place. what: the name of the argument with the histories, for errors. Raises UserError
        that lists unknown ids.
        """
        if unknown not in ("error", "skip"):
            raise UserError(
                f"unknown: {unknown!r} is not one of error, skip"
                f"{nearest(unknown, ('error', 'skip'))}"
            )
        expected = "expected a list of histories, each a list of ids"
        if isinstance(histories, (str, bytes)):
            raise UserError(f"{what}: found the text {histories!r}; {expected}")
        if not isinstance(histories, Iterable):
            raise UserError(f"{what}: found {histories!r}; {expected}")
        item_of = self.by_id.get
        encoded = []
        missing: dict[str, None] = {}  # in order
        for history in histories:
            if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
                raise UserError(
                    f"{what}: found the id {history!r}; "
                    f"expected a list of ids in its place, as [{history!r}]"
                )
            ids = list(history)
            try:
                items = [item_of(id, 0) or item_of(_as_stored(id), 0) for id in ids]
            except TypeError as error:
                raise UserError(f"{what}: an id is a number or a text ({error})") from error
            if 0 in items:
                missing |= {
                    str(id)[:60]: None for id, item in zip(ids, items, strict=True) if not item
                }
                items = items if keep_unknown else [item for item in items if item]
            encoded.append(np.array(items, np.int32))
        if missing and unknown == "error":
            more = ", ..." if len(missing) > MAX_LISTED else ""
            listed = ", ".join(list(missing)[:MAX_LISTED]) + more
            raise UserError(
                f"{what}: {len(missing)} ids are not in the run's data: {listed}; "
                f"expected ids such as {self.ids[0]!r}, or unknown=skip"
            )
        return encoded


def _as_stored(id: Any) -> Any:
    """Return an id that is not found in the form in which it may be: 7.0 and "7.0" as 7."""
    if isinstance(id, str):
        return id.removesuffix(".0")
    if isinstance(id, float) and id.is_integer():
        return str(int(id))
    return None if id is None else str(id)


def read(path: Path) -> Catalogue:
    """Return the items that a run saved. Raises UserError if they cannot be read."""
    import polars as pl  # not at the top: --help need not wait for it

    try:
        table = verified.load_table(path)
        clicks = table["clicks"].cast(pl.Int64)
        if not len(table) or sum(table.null_count().drop("title", strict=False).row(0)):
            raise ValueError("no items, or one without an id or a number of clicks")
        if not (table["id"].dtype.is_integer() or table["id"].dtype == pl.String):
            raise ValueError(f"ids of type {table['id'].dtype}, expected whole numbers or text")
        return Catalogue(table["id"].to_list(), _titles(table), clicks.to_numpy())
    except UserError:
        raise
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise _unreadable(path, error) from error


def from_prepared(prepared: Path, dataset: Dataset) -> Catalogue:
    """Return the items of a prepared folder. dataset: as loaded from that folder."""
    import polars as pl

    table = pl.read_parquet(prepared / "items.parquet")
    clicks = np.zeros(len(table) + 1, np.int64)
    for low, high in blocks(dataset.offsets):  # in blocks, to bound the memory of the masks
        offsets = dataset.offsets[low : high + 1]
        trained = is_training(offsets, dataset.train_ends[low:high])
        items = dataset.items[offsets[0] : offsets[-1]][trained]
        clicks += np.bincount(items, minlength=len(clicks))
    return Catalogue(table["id"].to_list(), _titles(table), clicks[1:])


def save(folder: RunFolder, items: Catalogue, dataset: Dataset, is_trained: bool) -> None:
    """Write what `read` and `training_clicks` read, into the folder of a run that has not finished.

    Raises UserError if it cannot be written, or if the folder holds other items.
    """
    import polars as pl

    _check_same(folder, items)
    titles = {} if items.titles is None else {"title": items.titles}
    table = pl.DataFrame({"id": items.ids, **titles, "clicks": items.clicks})
    contents = {folder.catalogue.name: verified.table_bytes(table)}
    if not is_trained:
        trained = is_training(dataset.offsets, dataset.train_ends)
        counts = dataset.train_ends - dataset.offsets[:-1]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        file = io.BytesIO()
        np.savez_compressed(file, items=dataset.items[trained], offsets=offsets)
        contents[folder.training_clicks.name] = file.getvalue()
    verified.write(folder.path, contents)


def _check_same(folder: RunFolder, items: Catalogue) -> None:
    """Raise UserError if a run of an earlier version, which has no digests, has other items."""
    if not folder.catalogue.exists() or folder.catalogue.name in verified.digests(folder.path):
        return
    saved = read(folder.catalogue)
    if saved.ids != items.ids or not np.array_equal(saved.clicks, items.clicks):
        raise UserError(
            f"--resume: {folder.catalogue} has {len(saved):,} items and "
            f"{int(saved.clicks.sum()):,} training clicks that are not the {len(items):,} and "
            f"{int(items.clicks.sum()):,} of the data; give the data that the run was started on, "
            "or start a new run in another --run_dir"
        )


def training_clicks(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (items, offsets) of the training clicks that a run saved.

    Raises UserError if they cannot be read.
    """
    try:
        loaded = arrays.load_all(verified.read(path), ("items", "offsets"))
        clicks = loaded["items"]
        offsets = loaded["offsets"]
        if not offsets.size or offsets[0] != 0 or offsets[-1] != len(clicks):
            raise ValueError(f"offsets that do not end at the {len(clicks):,} clicks")
        if (np.diff(offsets) < 0).any() or clicks.min(initial=1) < 1:
            raise ValueError("offsets that descend, or items below 1")
        return clicks, offsets
    except UserError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def ids_of(prepared: Path) -> list[Id]:
    """Return the ids of a prepared folder's items."""
    import polars as pl

    return pl.read_parquet(prepared / "items.parquet", columns=["id"])["id"].to_list()


def history_of(prepared: Path, user: str) -> tuple[list[int], list[float] | None]:
    """Return all clicks of a user, in order, as items, and their times in seconds, if known.

    Raises UserError for an unknown user.
    """
    import polars as pl

    from ttt4rec_jax.data.time_gaps import per_second  # imports polars too

    ids = pl.read_parquet(prepared / "users.parquet")["id"]
    rows = np.flatnonzero((ids.cast(pl.String) == str(user)).to_numpy())
    if not len(rows):
        raise UserError(
            f"--user: {user!r} is not among the {len(ids):,} users of {prepared}, such as {ids[0]}"
        )
    offsets = arrays.load(prepared / "offsets.npy")
    own = slice(offsets[rows[0]], offsets[rows[0] + 1])
    clicks = arrays.load(prepared / "items.npy", mapped=True)[own]
    times = arrays.load(prepared / "timestamps.npy", mapped=True)
    unit = per_second(read_json(prepared / "manifest.json"), times)
    return clicks.tolist(), (times[own] / unit).tolist() if unit else None


def _titles(table: Any) -> list[str | None] | None:
    return table["title"].cast(str).to_list() if "title" in table.columns else None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({first_line(error)}); copy the run's folder again")
