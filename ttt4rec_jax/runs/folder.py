"""The folder of a run: the paths of its files, its lock, and writing each file whole or not at all.

config.json, catalogue.parquet, metrics.jsonl, checkpoints/, test_ranks.parquet, result.json.
"""

import contextlib
import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep import atomic
from data_prep.settings import UserError
from ttt4rec_jax.config import Config, check_resumable
from ttt4rec_jax.metrics import Ranks

if TYPE_CHECKING:
    import polars as pl  # not imported at run time: --help need not wait for it

logger = logging.getLogger(__name__)
LOCK = ".lock"


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

    def is_free(self) -> bool:
        """Return whether the folder is missing, or empty except for what a killed process left."""
        if not self.path.exists():
            return True
        return self.path.is_dir() and all(
            path.name == LOCK or atomic.is_leftover(path) for path in self.path.iterdir()
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it; the system releases the lock however the process ends.

        Raises UserError if another process has locked it, or if it cannot be written. Where the
        file system does not support locks, logs a warning and continues without one.
        """
        self._make()
        with writing(self.path / LOCK):
            file = open(self.path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115, closed below
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
            with writing(self.path / LOCK):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            yield

    def create(self, config: Config) -> None:
        """Create the folder and write config.json. Raises UserError if it cannot be written."""
        self._make()
        write_json(self.config, config.to_dict())

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
        """Replace metrics.jsonl, which has a line per epoch."""
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in history))

    def write_result(
        self, result: dict[str, Any], test_ranks: dict[str, Ranks], users: np.ndarray
    ) -> None:
        """Write test_ranks.parquet, a row per test target for paired tests, then result.json.

        test_ranks: {protocol: ranks}; users: the users of the targets [T].
        """
        import polars as pl  # not at the top: --help need not wait for it

        columns = {
            f"{protocol}_{name}": x
            for protocol, ranks in test_ranks.items()
            for name, x in ranks._asdict().items()
        }
        write_table(self.ranks, pl.DataFrame({"user": users} | columns))
        write_json(self.result, result)


def load_config(path: Path) -> Config:
    """Return the settings in a config.json. Raises UserError if it has none."""
    try:
        return Config.load(path)
    except FileNotFoundError as error:
        raise UserError(
            f"--resume: {path} does not exist, so its folder holds no run; name the folder of a run"
        ) from error
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not the settings of a run of this version ({error!r}); start a new run"
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while a file is written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free disk space or make its folder writable, then --resume"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises UserError if it cannot be written."""
    with writing(path), atomic.file(path) as file:
        file.write(text.encode())


def write_table(path: Path, table: "pl.DataFrame") -> None:
    """Write a table as Parquet, whole or not at all. Raises UserError if it cannot be written."""
    content = io.BytesIO()  # so that the system reports a full disk; polars has errors of its own
    table.write_parquet(content)
    with writing(path), atomic.file(path) as file:
        file.write(content.getbuffer())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all. Raises UserError if it cannot be written."""
    write_text(path, json.dumps(content, indent=2) + "\n")
