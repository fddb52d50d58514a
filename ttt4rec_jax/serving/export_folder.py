"""The folder of an export: written whole or not at all, and replacing only an older export.

Imports no JAX.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from data_prep import atomic
from data_prep.files import read_json
from data_prep.settings import UserError
from ttt4rec_jax.serving.load_export import FORMAT


def check(output: Path, overwrite: bool) -> None:
    """Raise UserError if an export may not be written to this folder."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"--output: {output} is a file, expected a folder; name another folder")
    if not any(output.iterdir()):
        return
    if not is_export(output):
        raise UserError(f"--output: {output} is not empty and holds no export; name another folder")
    if not overwrite:
        raise UserError(
            f"--output: {output} already holds an export; name another folder, or use --overwrite"
        )
    if others := {path.name for path in output.iterdir()} - _own_names(output):
        raise UserError(
            f"--output: {output} also holds {min(others)}, which no export wrote and --overwrite "
            "would remove; move it elsewhere, or name another folder"
        )


def is_export(folder: Path) -> bool:
    """Return whether a folder holds an export of any version."""
    try:
        return read_json(folder / "manifest.json")["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _own_names(folder: Path) -> set[str]:
    """Return the names of what an export holds.

    Exports of earlier versions have load_export.py, whose import leaves __pycache__.
    """
    own = {"manifest.json", "load_export", "__pycache__"}
    try:
        return own | set(read_json(folder / "manifest.json")["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {"manifest.json"}


@contextlib.contextmanager
def replacing(output: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder to fill, which replaces `output` when the context ends.

    If filling it fails, `output` does not change. Raises UserError if it cannot be written.
    """
    check(output, overwrite)
    try:
        with atomic.folder(output.resolve(), replace=True) as new:
            yield new
    except OSError as error:
        raise UserError(
            f"--output: {output} cannot be written ({error.strerror}); name another folder"
        ) from error
