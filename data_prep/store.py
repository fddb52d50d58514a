"""The prepared folder on disk: written whole or not at all, and known to be whole when it is read."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from data_prep.files import file_digest, sync
from data_prep.settings import UserError

logger = logging.getLogger(__name__)
FORMAT_VERSION = 2
STALE_S = 24 * 3600
TEMPORARY = ".preparing-"


def content_digest(arrays: dict[str, np.ndarray]) -> str:
    """sha256 over the arrays' names, types, shapes and values: the same on every machine and library version."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
        digest.update(little.data)
    return digest.hexdigest()


def write(
    folder: Path,
    arrays: dict[str, np.ndarray],
    index: dict[str, np.ndarray],
    tables: dict[str, pl.DataFrame],
    manifest: dict,
) -> None:
    """Fills a new folder: NAME.npy, NAME.parquet and manifest.json, which gains `sha256` and `files`; all of it synced.

    index: arrays that follow from the others, and have no part in `sha256`.
    """
    folder.mkdir()
    for name, array in (arrays | index).items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    whole = {
        "format_version": FORMAT_VERSION,
        **manifest,
        "sha256": content_digest(arrays),
        "files": files,
    }
    (folder / "manifest.json").write_text(
        json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for path in (*folder.iterdir(), folder):
        sync(path)


def verify(folder: Path) -> str:
    """What is wrong with a prepared folder, '' if nothing: every file is there with the content that was written."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format_version"] != FORMAT_VERSION:
            return f"format version {manifest['format_version']}, expected {FORMAT_VERSION}"
        wrong = [
            name
            for name, digest in manifest["files"].items()
            if file_digest(folder / name) != digest
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) or type(error).__name__
    return f"{', '.join(wrong)}: not as written" if wrong else ""


def reuse_or_make(folder: Path, make: Callable[[Path, Path], None]) -> Path:
    """`folder`, if it is whole; else `make(new, scratch)` fills `new`, beside it, which then takes its place.

    Several processes may do so at once: the first to be ready sets the folder in place, the others
    use that one. Killed half-way, a process leaves a folder whose name begins with '.preparing-';
    it is removed
    after a day.
    """
    if folder.exists():
        if not (problem := verify(folder)):
            return folder
        logger.warning("%s is damaged (%s); making it again", folder, problem)
    with _temporary(folder.parent) as staging:
        new = staging / "new"
        scratch = staging / "scratch"
        scratch.mkdir()
        make(new, scratch)
        for _ in range(10):
            with contextlib.suppress(OSError):  # another process may have been faster
                os.rename(new, folder)
                sync(folder.parent)
                return folder
            if not verify(folder):
                return folder
            with contextlib.suppress(FileNotFoundError):
                os.rename(folder, Path(tempfile.mkdtemp(dir=staging)) / "damaged")
    raise UserError(
        f"--cache_dir: cannot set {folder} in place; remove it by hand, or name another folder"
    )


@contextlib.contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that goes with all it holds. Raises UserError if it cannot be made."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
    except OSError as error:
        raise UserError(
            f"--cache_dir: cannot write to {parent} ({error.strerror}); name a folder you may write to"
        ) from error
    for left in parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)
    try:
        yield staging
    except (OSError, pl.exceptions.PolarsError) as error:
        if is_full(error):
            raise UserError(
                f"--cache_dir: no space left in {parent}; free some or name another folder"
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def is_full(error: Exception) -> bool:
    """Whether the disk, or a quota, is what an error is about; polars and numpy say so in words alone."""
    numbers = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
    words = [*map(os.strerror, numbers), "requested and"]  # numpy: "1000 requested and 12 written"
    return getattr(error, "errno", None) in numbers or any(text in str(error) for text in words)


def replace_text(path: Path, text: str) -> None:
    """Writes a small file so that a reader finds the old content or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
