"""The folder of a run: the paths of its files, its lock, and writing each file whole or not at all.

config.json, catalogue.parquet, metrics.jsonl, checkpoints/, test_ranks.parquet, result.json, and
sha256.json with their digests (verified.py).
"""

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import atomic
from data_prep.settings import UserError
from ttt4rec_jax.config import Config, check_resumable
from ttt4rec_jax.metrics import Ranks
from ttt4rec_jax.runs import verified
from ttt4rec_jax.runs.verified import json_bytes, write_bytes, writing

logger = logging.getLogger(__name__)
LOCK = ".lock"
HOLDER = re.compile(r"(process \d+ on [^\n]*\n)?")  # what a lock file holds


class RunFolder:
    """The paths of a run's files, and how they are written."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.last = path / "checkpoints" / "last"
        self.best = path / "checkpoints" / "best"
        self.result = path / "result.json"
        self.error = path / "error.json"
        self.ranks = path / "test_ranks.parquet"
        self.tensorboard = path / "tensorboard"
        # the data that serving needs (items.py), so that nothing but the folder is required
        self.catalogue = path / "catalogue.parquet"
        self.training_clicks = path / "training_clicks.npz"

    def check(self, combinations: dict[str, Config], resume: bool) -> None:
        """Raise UserError if these runs cannot be written into the folder.

        That is the case if it is not free or, on resume, if it holds one of the runs with other
        settings. combinations: {name of a folder in this one: settings}.
        """
        if resume:
            self._check_own()
            for name, config in combinations.items():
                if (path := RunFolder(self.path / name).config).exists():
                    check_resumable(load_config(path), config)
        elif self.path.is_file():
            raise UserError(f"--run_dir: {self.path} is a file; name a folder")
        elif not self.is_free():
            raise UserError(
                f"--run_dir: {self.path} exists and is not empty; name another folder, "
                "or --resume the run in it"
            )

    def check_free(self) -> None:
        """Raise UserError if nothing new can be written there, since there is something already."""
        if not self.is_free():
            raise UserError(
                f"--run_dir: {self.path} exists and is not an empty folder; name another"
            )

    def is_free(self) -> bool:
        """Return whether the folder is missing, or empty except for what a killed process left."""
        if not self.path.exists():
            return True
        return self.path.is_dir() and all(
            path.name == LOCK or path.name.endswith(atomic.PART) for path in self.path.iterdir()
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it; the system releases the lock however the process ends.

        Raises UserError if another process has locked it, or if it cannot be written. Where the
        file system does not support locks, logs a warning and continues without one.
        """
        self._make()
        self._check_own()
        with writing(self.path / LOCK):
            file = open(  # noqa: SIM115, closed below
                self.path / LOCK, "a+", encoding="utf-8", errors="replace", opener=atomic.no_follow
            )
        with file:
            try:
                problem = atomic.lock(file, wait=False)
            except (BlockingIOError, PermissionError) as error:
                holder = "another process"
                with contextlib.suppress(OSError):  # on SMB a locked file cannot be read
                    file.seek(0)
                    holder = file.read(200).strip() or holder
                raise UserError(
                    f"--run_dir: {self.path} is in use by {holder}; "
                    "wait until that has ended, or name another folder"
                ) from error
            if problem:
                logger.warning(
                    "%s: cannot be locked (%s); do not use it from another process",
                    self.path,
                    problem,
                )
            file.seek(0)
            if not HOLDER.fullmatch(file.read(500)):  # perhaps another name of a file elsewhere
                raise UserError(
                    f"{self.path / LOCK}: not a lock file of this program; move it elsewhere"
                )
            with writing(self.path / LOCK):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            yield

    def create(self, config: Config, dataset: dict[str, Any] | None = None) -> None:
        """Create the folder and write config.json, for a run that has not finished yet.

        dataset: the manifest of the data, whose name and digest are recorded, so that no other data
        is used on resume. Raises UserError if it cannot be written.
        """
        self._make()
        content: dict[str, Any] = config.to_dict()
        if dataset is not None:
            content["dataset"] = {name: dataset[name] for name in ("name", "sha256")}
        ahead = (self.metrics.name, self.ranks.name, self.result.name)
        verified.write(self.path, {self.config.name: json_bytes(content)}, forget=ahead)

    def _check_own(self) -> None:
        """Raise UserError if something in the folder leads out of it; no run writes such a thing.

        The folder itself may be a symbolic link.
        """
        if not self.path.is_dir():
            return
        try:
            found = atomic.foreign(self.path)
        except OSError as error:
            raise UserError(
                f"--run_dir: {self.path} cannot be read ({error.strerror}); name another folder"
            ) from error
        if found:
            raise UserError(
                f"--run_dir: nothing is written into a folder with {found}; put the files "
                "themselves in its place, or copy the run's folder again"
            )

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--run_dir: {self.path} cannot be written ({error.strerror}); name another folder"
            ) from error

    def epochs_logged(self) -> int:
        """Return the number of epochs in metrics.jsonl; checkpoints may have fewer."""
        try:
            return len(self.metrics.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):
            return 0

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl, which has a line per epoch; that of a finished run stays."""
        if self.metrics.name not in verified.digests(self.path):
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in history))

    def write_result(
        self,
        result: dict[str, Any],
        test_ranks: dict[str, Ranks],
        users: np.ndarray,
        listed: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write test_ranks.parquet, a row per test target for paired tests, then result.json.

        test_ranks: {protocol: ranks}; users: the users of the targets [T]. listed: {protocol: the
        lengths of the lists [T]}, if the ranks are those of lists (evaluation/lists.py).
        """
        import polars as pl  # not at the top: --help need not wait for it

        columns = {
            f"{protocol}_{name}": x
            for protocol, ranks in test_ranks.items()
            for name, x in ranks._asdict().items()
        } | {f"{protocol}_listed": lengths for protocol, lengths in (listed or {}).items()}
        contents = {
            self.ranks.name: verified.table_bytes(pl.DataFrame({"user": users} | columns)),
            self.result.name: json_bytes(result),
        }
        verified.write(self.path, contents, also=[self.metrics.name])


def load_config(path: Path) -> Config:
    """Return the settings in a config.json. Raises UserError if it has none."""
    try:
        return Config.from_dict(verified.load_json(path))
    except FileNotFoundError as error:
        raise UserError(
            f"--resume: {path} does not exist, so its folder holds no run; name the folder of a run"
        ) from error
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not the settings of a run of this version ({error!r}); start a new run"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises UserError if it cannot be written."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all. Raises UserError if it cannot be written."""
    write_bytes(path, json_bytes(content))
