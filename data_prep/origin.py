"""What a prepared folder was made from: the raw files' names, sizes and digests."""

import hashlib
import json
import time
from pathlib import Path

from data_prep import archives, inputs, store, synthetic
from data_prep.errors import UserError
from data_prep.files import file_digest, read_json

HASHED_AT_ONCE = 64 << 20  # bytes; the digest of a larger file is cached
RACY_NS = 2_000_000_000


def origin(path: Path | None, cache: Path) -> dict:
    """Return the manifest's entries about the raw file: name, size and digest."""
    if path is None:
        return {"file": "", "bytes": 0, "sha256": f"generated, version {synthetic.VERSION}"}
    files = inputs.files_of(path)
    with archives.readable(path):
        digests = [source_digest(file, cache) for file in files]
        if files != [path]:
            root = inputs.root_of(path)
            pairs = [
                (file.relative_to(root).as_posix(), digest)
                for file, digest in zip(files, digests, strict=True)
            ]
            digests = [hashlib.sha256(json.dumps(pairs).encode()).hexdigest()]
        return {
            "file": path.name,
            "bytes": sum(file.stat().st_size for file in files),
            "sha256": digests[0],
        }


def stamps(path: Path | None) -> list[tuple[str, int, int]]:
    """Return (name, size, modification time in ns) of the files of a path, [] for no path."""
    if path is None:
        return []
    with archives.readable(path):
        files = inputs.files_of(path)
        return [(file.name, (s := file.stat()).st_size, s.st_mtime_ns) for file in files]


def check_unchanged(path: Path | None, before: list[tuple[str, int, int]]) -> None:
    """Raise UserError if a file has changed since `before`: its digest is that of other content."""
    changed = sorted({name for name, *_ in set(stamps(path)) ^ set(before)})
    if changed:
        raise UserError(
            f"{path}: {changed[0]} was changed while it was read; wait until it is complete, or "
            "name a copy of it"
        )


def source_digest(path: Path, cache_dir: Path) -> str:
    """Return a file's sha256.

    That of a large file is cached in cache_dir until its size or modification time changes. If the
    file was modified within two seconds before hashing, the digest is not cached, since another
    modification may have the same time.
    """
    stat = path.stat()
    if stat.st_size < HASHED_AT_ONCE:
        return file_digest(path)
    stamp = [stat.st_size, stat.st_mtime_ns]
    memo = (
        cache_dir
        / ".digests"
        / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.json"
    )
    try:
        known = read_json(memo)
        if known["stamp"] == stamp:
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = file_digest(path)
    if time.time_ns() - stat.st_mtime_ns > RACY_NS:
        memo.parent.mkdir(parents=True, exist_ok=True)
        store.replace_text(memo, json.dumps({"stamp": stamp, "sha256": digest}))
    return digest
