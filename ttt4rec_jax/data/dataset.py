"""A prepared folder as arrays of the host. Imports no JAX."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.index import click_index


class Targets(NamedTuple):
    """An evaluation set: flat positions of the targets [T], their users [T], negatives [T, C - 1]."""

    positions: np.ndarray
    users: np.ndarray
    negatives: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared folder. Items are 1..num_items, 0 is padding; a user's clicks lie together, in order.

    stored_index: what data_prep.index.click_index gives of it, made when it is asked for if it is
    not there. on_host: whether the arrays are to stay where they are, mapped from disk perhaps,
    rather than to go to the device
    whole (host_data.py).
    """

    manifest: dict
    items: np.ndarray  # [E]
    offsets: np.ndarray  # [users + 1]
    train_ends: np.ndarray  # [users]
    validation: Targets
    test: Targets
    stored_index: dict[str, np.ndarray] | None = None
    on_host: bool = False

    @property
    def num_items(self) -> int:
        return self.manifest["counts"]["items"]

    @property
    def users_without_negatives(self) -> int:
        """How many users have training clicks on every item, which leaves none to sample as a negative."""
        return int((np.diff(self.index["gap_starts"]) >= self.num_items).sum())

    @functools.cached_property
    def index(self) -> dict[str, np.ndarray]:
        return self.stored_index or click_index(
            self.items, self.offsets, self.train_ends, self.num_items
        )


def load_dataset(folder: Path, on_host: bool = False) -> Dataset:
    """Reads a prepared folder (see data_prep.prepare for its files). on_host: maps it, and reads what is used of it."""

    def array(name):
        return np.load(
            folder / f"{name}.npy", allow_pickle=False, mmap_mode="r" if on_host else None
        )

    offsets = array("offsets")

    def targets(name):
        positions = array(f"{name}_targets")
        users = np.searchsorted(offsets, positions, side="right") - 1
        return Targets(
            positions.astype(np.int32), users.astype(np.int32), array(f"{name}_negatives")
        )

    manifest = json.loads((folder / "manifest.json").read_text())
    index = {name: array(name) for name in ("is_first", "gaps", "gap_starts")}
    arrays = array("items"), offsets, array("train_ends"), targets("validation"), targets("test")
    return Dataset(manifest, *arrays, index, on_host)
