"""The folder a run leaves: config.json, catalogue.parquet, metrics.jsonl, checkpoints/, test_ranks.parquet, result.json."""

import contextlib
import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, check_resumable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)
# what a process that was killed may leave in a folder that holds no run yet
LOCK = ".lock"
PART = ".part"


class RunFolder:
    """Paths of a run's files, and writing them so that none is ever half there."""

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
        # what serving needs of the data, so that the folder alone suffices: catalogue.py
        self.catalogue = path / "catalogue.parquet"
        self.training_clicks = path / "training_clicks.npz"

    def check(self, combinations: dict[str, Config], resume: bool) -> None:
        """Raises UserError if the folder cannot take these runs, {name of a folder in it: settings}.

        It holds another run; or, on resume, one of theirs that was set otherwise.
        """
        if resume:
            for name, config in combinations.items():
                if (path := RunFolder(self.path / name).config).exists():
                    check_resumable(load_config(path), config)
        elif not self.is_free():
            raise UserError(f"--run_dir: {self.path} exists and is not empty; name another folder, or --resume the run in it")

    def is_free(self) -> bool:
        """Whether the folder is not there, or holds nothing but what a process leaves that is killed before it began a run."""
        if not self.path.exists():
            return True
        return self.path.is_dir() and all(path.name == LOCK or path.suffix == PART for path in self.path.iterdir())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and holds it for this process: a lock of the system's, which goes with the process however it ends.

        Raises UserError if another process holds it, or it cannot be written. Not locked, and said
        so, where the file system knows no locks.
        """
        self._make()
        with writing(self.path / LOCK):
            file = open(self.path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115, it is closed below
        with file:
            try:
                if fcntl is None:
                    raise OSError("this system has no flock")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                holder = "another process"
                with contextlib.suppress(OSError):  # on SMB a locked file cannot be read
                    file.seek(0)
                    holder = file.read(200).strip() or holder
                what = f"--run_dir: {self.path} is in use by {holder}"
                raise UserError(f"{what}; wait until it has ended, or name another folder") from error
            except OSError as error:
                logger.warning("%s: cannot be locked (%s); let no other process use it", self.path, error.strerror or error)
            with writing(self.path / LOCK):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            yield

    def create(self, config: Config) -> None:
        """Makes the folder and writes config.json. Raises UserError if it cannot be written."""
        self._make()
        write_json(self.config, config.to_dict())

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--run_dir: {self.path} cannot be written ({error.strerror}); name another folder") from error

    def epochs_told(self) -> int:
        """How many epochs metrics.jsonl tells of; it may know of more than there are checkpoints of."""
        try:
            return len(self.metrics.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):
            return 0

    def write_metrics(self, history: list[dict]) -> None:
        """Writes metrics.jsonl anew, a line an epoch."""
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in history))

    def write_result(self, result: dict, test_ranks: dict, users) -> None:
        """Writes test_ranks.parquet, a row a test target (for paired comparisons), then result.json.

        test_ranks: {protocol: metrics.Ranks}; users: the targets' users [T].
        """
        import polars as pl  # not at the top: --help need not wait for it

        columns = {f"{protocol}_{name}": x for protocol, ranks in test_ranks.items() for name, x in ranks._asdict().items()}
        write_table(self.ranks, pl.DataFrame({"user": users} | columns))
        write_json(self.result, result)


def load_config(path: Path) -> Config:
    """The settings in a config.json. Raises UserError if it holds none."""
    try:
        return Config.load(path)
    except FileNotFoundError as error:
        raise UserError(f"--resume: {path} is not there, so its folder holds no run; name the folder of a run") from error
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not the settings of a run of this version ({error!r}); start a new run") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a file that cannot be written into a UserError."""
    try:
        yield
    except OSError as error:
        text = f"{path}: cannot be written ({error.strerror or error})"
        raise UserError(f"{text}; make room or make its folder writable, then --resume") from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file to fill, which takes its place when it is whole and on disk. Raises UserError if it cannot be written."""
    beside = path.with_name(path.name + PART)
    with writing(path):
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece."""
    with whole(path) as file:
        file.write(text.encode())


def write_table(path: Path, table) -> None:
    """Writes a polars table as Parquet, in one piece."""
    content = io.BytesIO()  # a full disk is then told by the system; polars has errors of its own
    table.write_parquet(content)
    with whole(path) as file:
        file.write(content.getbuffer())


def write_json(path: Path, content) -> None:
    """Writes content as indented JSON, in one piece."""
    write_text(path, json.dumps(content, indent=2) + "\n")
