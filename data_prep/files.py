"""Read whole files and JSON that may come from elsewhere, digest a file, force one to disk."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_JSON = 2**26  # bytes of a JSON file; parsing takes up to some 50 times as much memory


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Return the content of a file.

    most: its largest size in bytes. Raises OSError if it cannot be read, ValueError if it is larger
    or no regular file; a pipe or a device is never waited for.
    """
    # without O_NONBLOCK, opening a pipe would wait for its writer
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("not a regular file")
        if most is not None and about.st_size > most:
            raise ValueError(f"{about.st_size:,} bytes, expected at most {most:,}")
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise ValueError(f"it grew beyond {most:,} bytes while it was read")
    return content


def parse_json(content: bytes) -> Any:
    """Return what JSON says. Raises ValueError for anything else, however deep or long."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file says. Raises OSError or ValueError."""
    return parse_json(read_bytes(path, MOST_JSON))
