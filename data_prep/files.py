"""What several modules do with a file: its digest, and making sure that it is on disk."""

import hashlib
import os
from pathlib import Path


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sync(path: Path) -> None:
    """Forces a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
