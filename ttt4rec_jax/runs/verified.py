"""The files of a run's folder under digests: damage is one line, and never other content.

sha256.json holds {file: digest} of the COVERED files that are complete. A file that is about to be
rewritten loses its entry first, so that a process may be killed at any moment. Folders of earlier
versions have no sha256.json; their files are read as they are. Imports neither JAX nor polars.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep import atomic
from data_prep.files import MOST_JSON, parse_json, read_bytes, read_json
from data_prep.settings import UserError, first_line

if TYPE_CHECKING:
    import polars as pl  # not imported at run time: --help need not wait for it

DIGESTS = "sha256.json"
COVERED = (
    "config.json",
    "catalogue.parquet",
    "training_clicks.npz",
    "metrics.jsonl",
    "test_ranks.parquet",
    "result.json",
    "sweep.json",
)
# A row that differs from the others takes at least some bits: tables of this project have up to 2.3
# rows a byte. A file that claims more than this many would only fill the memory.
ROWS_PER_BYTE = 100


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while a file is written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free disk space or make its folder writable, then --resume"
        ) from error


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all. Raises UserError if it cannot be written."""
    with writing(path), atomic.file(path) as file:
        file.write(content)


def write(
    folder: Path,
    contents: dict[str, bytes],
    forget: Iterable[str] = (),
    also: Iterable[str] = (),
) -> None:
    """Write COVERED files {name: content} and their digests; a file that stays as it is, is kept.

    forget: files that will change soon, whose digests are removed. also: files written before,
    whose digests are added if they exist. Raises UserError if they cannot be written.
    """
    known = digests(folder)
    new = {name: _digest(content) for name, content in contents.items()}
    for name in also:
        with contextlib.suppress(FileNotFoundError):
            new[name] = _digest((folder / name).read_bytes())
    changed = {name for name in contents if known.get(name) != new[name]}
    changed |= {name for name in contents.keys() - changed if not _is_intact(folder, name, new)}
    kept = {name: x for name, x in known.items() if name not in changed and name not in set(forget)}
    if kept != known:
        _write_digests(folder, kept)
    for name in contents:
        if name in changed:
            write_bytes(folder / name, contents[name])
    if kept | new != kept:
        _write_digests(folder, kept | new)


def digests(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's files; {} of an earlier version. Raises UserError."""
    path = folder / DIGESTS
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not content.keys() <= set(COVERED):
            raise ValueError(f"expected an object with the keys {', '.join(COVERED)}")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({first_line(error)}); copy the run's folder again"
        ) from error
    return content


def read(path: Path, most: int | None = None) -> bytes:
    """Return the content of a COVERED file, compared with its digest: what is checked is used.

    Raises UserError if it has changed since it was written; OSError or ValueError as read_bytes.
    """
    content = read_bytes(path, most)
    digest = digests(path.parent).get(path.name)
    if digest is not None and digest != _digest(content):
        raise UserError(
            f"{path}: has changed since it was written (sha256 {_digest(content)[:16]}, expected "
            f"{str(digest)[:16]}); copy the run's folder again, or if you changed it on purpose, "
            f"remove {DIGESTS}"
        )
    return content


def load_json(path: Path) -> Any:
    """Return what a COVERED file of JSON says. Raises as `read`."""
    return parse_json(read(path, MOST_JSON))


def load_table(path: Path) -> "pl.DataFrame":
    """Return the table in a COVERED Parquet file.

    Raises as `read`, and ValueError if it cannot be read or claims more rows than it can hold.
    """
    import polars as pl  # not at the top: --help need not wait for it

    content = read(path)
    try:
        rows = pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item()
        if rows > ROWS_PER_BYTE * len(content):
            raise ValueError(f"{rows:,} rows in {len(content):,} bytes")
        return pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(" ".join(str(error).split())[:100]) from error


def table_bytes(table: "pl.DataFrame") -> bytes:
    """Return a table as Parquet, to be written at once: polars has errors of its own for disks."""
    content = io.BytesIO()
    table.write_parquet(content)
    return content.getvalue()


def json_bytes(content: Any) -> bytes:
    """Return indented JSON."""
    return (json.dumps(content, indent=2) + "\n").encode()


def _write_digests(folder: Path, content: dict[str, str]) -> None:
    write_bytes(folder / DIGESTS, json_bytes(dict(sorted(content.items()))))


def _is_intact(folder: Path, name: str, expected: dict[str, str]) -> bool:
    try:
        return _digest(read_bytes(folder / name)) == expected[name]
    except (OSError, ValueError):
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
