"""Files and folders that are written whole or not at all, and a lock between processes.

A file or folder is written under a temporary name next to its destination, forced to disk, and then
renamed. A process that is killed leaves the temporary name behind; a process that writes to the
same folder at least a day later removes it.

Folders may come from elsewhere, so nothing is written or removed through a symbolic link: temporary
names are random and must be new, renaming replaces a link and not what it names, and only names
that `temporary_path` gives are removed.
"""

import contextlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from data_prep.files import sync

if sys.platform != "win32":
    import fcntl

PART = ".part"  # the suffix of every temporary name
TEMPORARY = re.compile(rf"\..{{0,40}}\.[0-9a-f]{{8}}{PART}", re.DOTALL)  # by `temporary_path`
STALE_S = 24 * 3600


def temporary_path(path: Path) -> Path:
    """Return a new temporary name in the folder of `path`."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{PART}")


def is_leftover(path: Path) -> bool:
    """Return whether a killed process may have left this file or folder behind."""
    return TEMPORARY.fullmatch(path.name) is not None


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content; of a symbolic link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def foreign(folder: Path) -> str:
    """Return the first entry below a folder that is no file and no folder, in words; "" if none.

    Such entries are symbolic links, pipes and devices. `folder` itself may be a link.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                return f"{entry.path}, a symbolic link to {os.readlink(entry.path)}"
            if entry.is_dir() and (found := foreign(Path(entry.path))):
                return found
            if not entry.is_dir() and not entry.is_file():
                return f"{entry.path}, a pipe or a device"
    return ""


def no_follow(path: str, flags: int) -> int:
    """Open a file as the `opener` of `open`, and fail with OSError if it is a symbolic link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def remove_stale(folder: Path) -> None:
    """Remove temporary files and folders older than a day, whose processes must have ended."""
    for left in filter(is_leftover, folder.iterdir()):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > STALE_S:
                remove(left)


@contextlib.contextmanager
def file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file to write, which becomes `path` when the context ends without an error.

    Raises OSError if it cannot be written; then `path` does not change.
    """
    remove_stale(path.parent)
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as new:
            yield new
            new.flush()
            os.fsync(new.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def move(source: Path, path: Path) -> None:
    """Force a file to disk and rename it to `path`, in the same file system."""
    sync(source)
    os.replace(source, path)


@contextlib.contextmanager
def folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder to fill, which becomes `path` when the context ends without an error.

    replace: whether it may replace a folder that is not empty; otherwise OSError is raised. Raises
    OSError if it cannot be written; then `path` does not change.
    """
    with staging(path) as scratch:
        new = scratch / "new"
        new.mkdir()
        yield new
        sync_tree(new)
        old = scratch / "old"
        if replace and path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
        sync(path.parent)


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder next to `path`, and remove it with its content at the end.

    Creates the parent folders of `path`. Raises OSError if that fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    scratch = temporary_path(path)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Force a folder and its content to disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def lock(file: IO, wait: bool) -> str:
    """Lock an open file for this process. The system releases the lock however the process ends.

    wait: whether to wait while another process holds the lock; otherwise BlockingIOError (on some
    file systems PermissionError) is raised. Returns "" if the file was locked, otherwise the reason
    why this system or file system cannot lock it.
    """
    if sys.platform == "win32":
        return "this system has no flock"
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError as error:
        return error.strerror or str(error)
    return ""
