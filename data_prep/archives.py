"""Gzip files and members of zip files, read in place.

Nothing is unpacked to a path that an archive names.
"""

import contextlib
import gzip
import io
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from data_prep.settings import UserError, nearest

MAX_RATIO = 200  # of unpacked to packed bytes; files of clicks have 3 to 10
MAX_BYTES = 64 << 30
SMALL_BYTES = 64 << 20  # below this size, any ratio is allowed


_EXPECTED_SIZE = f"expected at most {MAX_RATIO} times as many and at most {MAX_BYTES}"


def _is_absurd(size: int, packed: int) -> bool:
    """Return whether `size` bytes are too many to be unpacked from `packed` bytes."""
    return size > MAX_BYTES or (size > SMALL_BYTES and size > MAX_RATIO * packed)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the standard library's errors about a damaged or unreadable file into a UserError."""
    try:
        yield
    except (
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"{path}: damaged or truncated ({reason}); delete it and download or copy it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def open_text(path: Path) -> io.BufferedIOBase:
    """Open a file to read bytes, through gzip if it starts like a gzip file, as polars does."""
    with open(path, "rb") as file:
        magic = file.read(2)
    return gzip.open(path, "rb") if magic == b"\x1f\x8b" else open(path, "rb")


def count_lines(path: Path) -> int:
    """Return the number of lines of a text file.

    Raise UserError if a gzip file unpacks to an absurd size, which its header does not state
    reliably.
    """
    packed = path.stat().st_size
    size = 0
    count = 0
    end = b"\n"
    with readable(path), open_text(path) as stream:
        is_packed = isinstance(stream, gzip.GzipFile)
        while part := stream.read(1 << 20):
            size += len(part)
            if is_packed and _is_absurd(size, packed):
                raise UserError(
                    f"{path}: unpacks to more than {size} bytes from {packed}, {_EXPECTED_SIZE}; "
                    "it looks like a gzip bomb; unpack it yourself if you trust it"
                )
            count += part.count(b"\n")
            end = part[-1:]
    return count + (end != b"\n")


def check_gzip(path: Path) -> int:
    """Unpack a gzip file once to check it, and return its number of lines; 0 for other files.

    Raise UserError as count_lines does.
    """
    with readable(path), open_text(path) as stream:
        if not isinstance(stream, gzip.GzipFile):
            return 0
    return count_lines(path)


def spool(path: Path, member: str, folder: Path) -> Path:
    """Copy a member of a zip archive to a new file in `folder`, whose name is not the archive's.

    Raise UserError if the archive is damaged or the member missing, locked or absurdly large.
    """
    target = folder / "member"
    with readable(path), zipfile.ZipFile(path) as archive:
        info = _checked(archive, path, member)
        with archive.open(info) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    return target


def read_member(path: Path, member: str) -> bytes | None:
    """Return the bytes of a small member of a zip archive, None if it does not exist."""
    with readable(path), zipfile.ZipFile(path) as archive:
        if member not in archive.namelist():
            return None
        return archive.read(_checked(archive, path, member))


def _checked(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    """Return a member's entry in the archive's directory.

    Raise UserError if the member is missing or encrypted, or if its declared size is absurd.
    """
    try:
        info = archive.getinfo(member)
    except KeyError:
        names = archive.namelist()
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(
            f"{path}: has no member {member!r}{nearest(member, names)}; its members are "
            f"{listed or 'none'}; use the official archive"
        ) from None
    size = info.file_size
    packed = max(info.compress_size, 1)
    if info.flag_bits & 1:
        raise UserError(f"{path}: member {member!r} is encrypted; use the official archive")
    if _is_absurd(size, packed):
        raise UserError(
            f"{path}: member {member!r} declares {size} bytes from {packed}, {_EXPECTED_SIZE}; it "
            "looks like a zip bomb; use the official archive"
        )
    return info
