"""The files of an export: verified, then read."""

import hashlib
import io
import json
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "ttt4rec_jax.export"
VERSION = 1
VERSION_WITH_TIMES = 2  # of a model whose histories carry time gaps
# what damaged or false files raise
UNREADABLE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError),
    *(TypeError, ValueError, zipfile.BadZipFile),
    *(SyntaxError, tokenize.TokenError),  # by NumPy, of an array's header
)


class ExportError(ValueError):
    """A folder cannot be served; the message is one line."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an intact export of this version, or raise ExportError."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"], manifest["format_version"]
        files = dict(manifest["files"])
    except FileNotFoundError as error:
        raise ExportError(
            f"{folder}: no manifest.json, so it holds no export; name a folder that export.py wrote"
        ) from error
    except UNREADABLE as error:
        raise ExportError(
            f"{path}: not the manifest of an export ({first_line(error)}); copy the folder again"
        ) from error
    if found not in ((FORMAT, VERSION), (FORMAT, VERSION_WITH_TIMES)):
        raise ExportError(
            f"{folder}: found {found[0]} of format version {found[1]}, expected {FORMAT} of "
            f"version {VERSION} or {VERSION_WITH_TIMES}; use the load_export in that folder, or "
            "export the run again"
        )
    try:
        sizes = manifest["items"], manifest["k"], manifest["model"]["max_len"]
        programs = [program["file"] for program in manifest["programs"].values()]
        if unlisted := {"arrays.npz", "items.jsonl", *programs} - files.keys():
            raise ValueError(f"files has no {min(unlisted)}")
        if any(type(size) is not int or not 0 < size < 2**31 for size in sizes) or sizes[2] > 2**20:
            raise ValueError(f"items, k and max_len are {sizes}")
        if elsewhere := [name for name in files if Path(name).name != name]:
            raise ValueError(f"a file outside the folder, {elsewhere[0]!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{path}: damaged ({first_line(error)}); copy the folder again"
        ) from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ExportError(f"{path}: missing; copy the folder again")
        if sha256(path) != expected:
            raise ExportError(f"{path}: damaged (wrong sha256); copy the folder again")
    return manifest


def read_items(path: Path, count: int) -> list[dict[str, Any]]:
    """Return the lines of items.jsonl. Raise ValueError unless they are `count` items."""
    with open(path, encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    if len(items) != count:
        raise ValueError(f"{path.name} has {len(items)} items, expected {count}")
    return items


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file. Raise ValueError unless each is as long as its header says.

    They are stored uncompressed and read as views of the file's bytes, so that no header can ask
    for more memory than that.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
                raise ValueError(f"{info.filename} is compressed, or larger than its file")
            file = io.BytesIO(archive.read(info))
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            flat = np.frombuffer(file.getbuffer(), dtype, offset=file.tell())
            name = info.filename.removesuffix(".npy")
            arrays[name] = flat.reshape(shape, order="F" if is_fortran else "C")
    return arrays


def deserialize(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return {program: jax.export.Exported}. Raise ExportError if jax cannot run them here."""
    import jax

    if (platform := jax.export.default_export_platform()) not in manifest["platforms"]:
        what = f"exported for {', '.join(manifest['platforms'])}, but jax runs on {platform}"
        raise ExportError(f"{folder}: {what}; set JAX_PLATFORMS to one of them")
    least = jax.export.minimum_supported_calling_convention_version
    most = jax.export.maximum_supported_calling_convention_version
    try:
        if not least <= (version := manifest["calling_convention_version"]) <= most:
            raise ValueError(f"calling convention version {version}, expected {least} to {most}")
        paths = {name: folder / about["file"] for name, about in manifest["programs"].items()}
        return {
            name: jax.export.deserialize(bytearray(path.read_bytes()))
            for name, path in paths.items()
        }
    except Exception as error:  # whatever jax and flatbuffers raise for bytes that are no program
        raise ExportError(
            f"{folder}: jax {jax.__version__} cannot read its programs ({first_line(error)}); "
            f"install jax {manifest['written_by']['jax']}, which wrote them, "
            "or export the run again"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
