"""Archives read in place: gzip files and members of zip files. Nothing is unpacked to a path that an archive names."""

import contextlib
import gzip
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.settings import UserError, nearest

MAX_RATIO = 200  # clicks reach 3 to 10
MAX_BYTES = 64 << 30
SMALL_BYTES = 64 << 20  # below this, no ratio is absurd enough to matter


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the standard library raises for a damaged or unreadable file into a UserError."""
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
            f"{path}: damaged or cut short ({reason}); delete it and download or copy it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def open_text(path: Path) -> BinaryIO:
    """A file's bytes, through gzip if it begins as a gzip file does (as polars decides it)."""
    with open(path, "rb") as file:
        magic = file.read(2)
    return gzip.open(path, "rb") if magic == b"\x1f\x8b" else open(path, "rb")


def count_lines(path: Path) -> int:
    """How many lines a text file has.

    Raises UserError if a gzip file would unpack to an absurd size. It says so nowhere reliably.
    """
    packed = path.stat().st_size
    size = 0
    count = 0
    end = b"\n"
    with readable(path), open_text(path) as stream:
        is_packed = isinstance(stream, gzip.GzipFile)
        while part := stream.read(1 << 20):
            size += len(part)
            is_absurd = size > MAX_BYTES or (size > SMALL_BYTES and size > MAX_RATIO * packed)
            if is_packed and is_absurd:
                raise UserError(
                    f"{path}: unpacks to more than {size} bytes from {packed}, expected at most {MAX_RATIO} times as many and "
                    f"{MAX_BYTES}; it looks like a gzip bomb, unpack it by hand if you trust it"
                )
            count += part.count(b"\n")
            end = part[-1:]
    return count + (end != b"\n")


def check_gzip(path: Path) -> int:
    """How many lines a gzip file has, 0 if it is none: it is unpacked once to be checked.

    Raises UserError as count_lines does.
    """
    with readable(path), open_text(path) as stream:
        if not isinstance(stream, gzip.GzipFile):
            return 0
    return count_lines(path)


def spool(path: Path, member: str, folder: Path) -> Path:
    """Streams one member of a zip archive to a new file of `folder`, under a name of ours. Raises UserError."""
    target = folder / "member"
    with readable(path), zipfile.ZipFile(path) as archive:
        info = _checked(archive, path, member)
        with archive.open(info) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    return target


def read_member(path: Path, member: str) -> bytes | None:
    """The bytes of a small member of a zip archive; None if there is no such member."""
    with readable(path), zipfile.ZipFile(path) as archive:
        if member not in archive.namelist():
            return None
        return archive.read(_checked(archive, path, member))


def _checked(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    """The directory's entry of a member. Raises UserError if it is missing, locked or of an absurd declared size."""
    try:
        info = archive.getinfo(member)
    except KeyError:
        names = archive.namelist()
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(
            f"{path}: has no member {member!r}{nearest(member, names)}; it holds {listed or 'nothing'}; "
            "use the official archive"
        ) from None
    size = info.file_size
    packed = max(info.compress_size, 1)
    if info.flag_bits & 1:
        raise UserError(f"{path}: member {member!r} is encrypted; use the official archive")
    if size > MAX_BYTES or (size > SMALL_BYTES and size > MAX_RATIO * packed):
        raise UserError(
            f"{path}: member {member!r} declares {size} bytes in {packed} compressed ones, expected at most "
            f"{MAX_RATIO} times as many and {MAX_BYTES}; it looks like a zip bomb, use the official archive"
        )
    return info
