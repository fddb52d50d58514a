"""The prepared folder on disk: written whole or not at all, and verified when it is read."""

import contextlib
import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_prep import atomic
from data_prep.files import file_digest, read_json, sync
from data_prep.settings import UserError

logger = logging.getLogger(__name__)
FORMAT_VERSION = 5  # also increased when a bug in the readers is fixed, to prepare data again
ATTEMPTS = 10  # to replace a damaged folder while other processes do the same


def content_digest(arrays: dict[str, np.ndarray]) -> str:
    """Return the sha256 of the arrays' names, types, shapes and values.

    It is the same on every machine and for every version of the libraries.
    """
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
    manifest: dict[str, Any],
) -> None:
    """Create a folder of NAME.npy, NAME.parquet and manifest.json files, and force it to disk.

    The manifest also gets `sha256`, the digest of the arrays, and `files`, the digest of each file.
    index: arrays that are derived from the others and not included in `sha256`.
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
    atomic.sync_tree(folder)


def verify(folder: Path) -> str:
    """Return what is wrong with a prepared folder, or "" if all of its files are intact."""
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest["format_version"] != FORMAT_VERSION:
            return f"format version {manifest['format_version']}, expected {FORMAT_VERSION}"
        if any(Path(name).name != name for name in manifest["files"]):
            return "its manifest names files elsewhere"
        wrong = [
            name
            for name, digest in manifest["files"].items()
            if file_digest(folder / name) != digest
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) or type(error).__name__
    return f"{', '.join(wrong)}: changed since it was written" if wrong else ""


def reuse_or_make(folder: Path, make: Callable[[Path, Path], None]) -> Path:
    """Return `folder` if it is intact; otherwise make it again.

    make(new, scratch) creates and fills the folder `new`, which then becomes `folder`; `scratch` is
    for its temporary files. Several processes may do so at the same time: the folder of the first
    one to finish is used by all of them.
    """
    if folder.exists():
        if not (problem := verify(folder)):
            return folder
        logger.warning("%s is damaged (%s); making it again", folder, problem)
    with _staging(folder) as staging:
        new = staging / "new"
        scratch = staging / "scratch"
        scratch.mkdir()
        make(new, scratch)
        for attempt in range(ATTEMPTS):
            with contextlib.suppress(OSError):  # another process may have been faster
                os.rename(new, folder)
                sync(folder.parent)
                return folder
            if not verify(folder):
                return folder
            with contextlib.suppress(FileNotFoundError):
                os.rename(folder, staging / f"damaged-{attempt}")
    raise UserError(
        f"--cache_dir: cannot replace {folder}; remove it by hand, or name another folder"
    )


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`. Raises UserError if it cannot be written."""
    parent = folder.parent
    with contextlib.ExitStack() as stack:
        try:
            staging = stack.enter_context(atomic.staging(folder))
        except OSError as error:
            raise UserError(
                f"--cache_dir: cannot write to {parent} ({error.strerror}); "
                "name a folder that you can write to"
            ) from error
        try:
            yield staging
        except (OSError, pl.exceptions.PolarsError) as error:
            if is_full(error):
                raise UserError(
                    f"--cache_dir: no space left in {parent}; free some, or name another folder"
                ) from error
            raise


def is_full(error: Exception) -> bool:
    """Return whether an error is about a full disk or a quota.

    polars and NumPy raise their own errors, which can be recognised only by their text.
    """
    numbers = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
    words = [*map(os.strerror, numbers), "requested and"]  # numpy: "1000 requested and 12 written"
    return getattr(error, "errno", None) in numbers or any(text in str(error) for text in words)


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that a reader finds the old or the new content, never a mixture."""
    with atomic.file(path) as file:
        file.write(text.encode())
