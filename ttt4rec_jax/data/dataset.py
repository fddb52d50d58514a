"""A prepared folder as NumPy arrays on the host. This module imports no JAX."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import arrays
from data_prep.files import read_json
from data_prep.index import click_index
from data_prep.settings import UserError, first_line


class Targets(NamedTuple):
    """An evaluation set: flat positions and users of the targets [T], negatives [T, C - 1]."""

    positions: np.ndarray
    users: np.ndarray
    negatives: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared folder. Items are 1..num_items, 0 is padding; a user's clicks are adjacent.

    items [E], offsets [users + 1], train_ends [users] and timestamps [E], None if there are none:
    see data_prep.prepare. stored_index: the arrays of data_prep.index.click_index, computed on
    demand if not given. on_host: whether the arrays stay on the host, where they may be
    memory-mapped, instead of being copied to the device (training/host_data.py).
    """

    manifest: dict
    items: np.ndarray
    offsets: np.ndarray
    train_ends: np.ndarray
    validation: Targets
    test: Targets
    stored_index: dict[str, np.ndarray] | None = None
    on_host: bool = False
    timestamps: np.ndarray | None = None

    @property
    def num_items(self) -> int:
        """The number of items in the catalogue, V."""
        return self.manifest["counts"]["items"]

    @property
    def users_without_negatives(self) -> int:
        """The number of users whose training clicks cover every item: they have no negatives."""
        return int((np.diff(self.index["gap_starts"]) >= self.num_items).sum())

    @functools.cached_property
    def index(self) -> dict[str, np.ndarray]:
        """The arrays of data_prep.index.click_index."""
        if self.stored_index:
            return self.stored_index
        return click_index(self.items, self.offsets, self.train_ends, self.num_items)


def load_dataset(folder: Path, on_host: bool = False) -> Dataset:
    """Read a prepared folder, whose files data_prep.prepare lists.

    on_host: memory-map the arrays, so that only the parts that are used are read.
    """

    def array(name: str, mapped: bool = on_host) -> np.ndarray:
        path = folder / f"{name}.npy"
        try:
            return arrays.load(path, mapped=mapped)
        except ValueError as error:
            raise UserError(
                f"{path}: damaged ({first_line(error)}); remove {folder}, and the data are "
                "prepared again"
            ) from error

    offsets = array("offsets")

    def targets(name: str) -> Targets:
        positions = array(f"{name}_targets")
        users = np.searchsorted(offsets, positions, side="right") - 1
        negatives = array(f"{name}_negatives")
        return Targets(positions.astype(np.int32), users.astype(np.int32), negatives)

    return Dataset(
        manifest=read_json(folder / "manifest.json"),
        items=array("items"),
        offsets=offsets,
        train_ends=array("train_ends"),
        validation=targets("validation"),
        test=targets("test"),
        stored_index={name: array(name) for name in ("is_first", "gaps", "gap_starts")},
        on_host=on_host,
        timestamps=array("timestamps", mapped=True),
    )
