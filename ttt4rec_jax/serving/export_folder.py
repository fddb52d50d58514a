"""The folder of an export: written completely or not at all, and replaces nothing but an export.

Imports no JAX.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


def is_export(folder: Path) -> bool:
    """Return whether a folder holds an export of any version."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return manifest["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def replacing(output: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder to fill, which then replaces `output`; an error leaves that unchanged.

    Raise UserError if the folder cannot be written. A process that is killed leaves a folder whose
    name begins with ".exporting-".
    """
    check(output, overwrite)
    staging = None
    try:
        place = output.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".exporting-", dir=place.parent))
        new = staging / "new"
        old = staging / "old"
        new.mkdir()
        yield new
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            if old.exists():
                old.rename(place)
            raise
    except OSError as error:
        raise UserError(
            f"--output: {output} cannot be written ({error.strerror}); name another folder"
        ) from error
    finally:
        if staging:
            shutil.rmtree(staging, ignore_errors=True)
