"""The folder an export is written to: whole or not at all, in place of nothing but an older export. Imports no JAX."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.serving.load_export import FORMAT


def check(output: Path, overwrite: bool) -> None:
    """Raises UserError if an export may not be written there."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"--output: {output} is a file, expected a folder; name another")
    if not any(output.iterdir()):
        return
    if not is_export(output):
        raise UserError(f"--output: {output} is not empty and holds no export; name another folder")
    if not overwrite:
        raise UserError(
            f"--output: {output} holds an export already; name another folder, or --overwrite it"
        )


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export, of whatever version."""
    try:
        return (
            json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["format"] == FORMAT
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def replacing(output: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder to fill, which then takes the place of `output`; if filling it fails, `output` stays as it was.

    Raises UserError if it cannot be written. A process that is killed leaves a folder whose name
    begins with ".exporting-".
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
