"""Compressed files: gzip is read in place, other forms and members of zip files are unpacked.

Nothing is unpacked to a path that an archive names.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from data_prep.settings import UserError, first_line, nearest

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
        lzma.LZMAError,
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


def count_lines(path: Path, blank: bool = True) -> int:
    """Return the number of lines of a text file. blank: whether to count blank ones.

    Raise UserError if a gzip file unpacks to an absurd size, which its header does not state
    reliably.
    """
    packed = path.stat().st_size
    size = 0
    count = 0
    end = b"\n"
    if not blank:
        with readable(path), open_text(path) as stream:
            return sum(not line.isspace() for line in stream)
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


def unpack(path: Path, compression: str, target: Path) -> Path:
    """Unpack a .bz2, .xz or .zst file of text to a new file, and return it.

    Raise UserError if it is damaged, or unpacks to an absurd size.
    """
    packed = path.stat().st_size
    size = 0
    if compression == ".zst":
        return _unpack_zst(path, target)
    opener = bz2.open if compression == ".bz2" else lzma.open
    with readable(path), opener(path, "rb") as stream, open(target, "wb") as file:
        while part := stream.read(1 << 20):
            size += len(part)
            if _is_absurd(size, packed):
                raise UserError(
                    f"{path}: unpacks to more than {size} bytes from {packed}, {_EXPECTED_SIZE}; "
                    "unpack it yourself if you trust it"
                )
            file.write(part)
    return target


def _unpack_zst(path: Path, target: Path) -> Path:
    import polars as pl  # the standard library of Python 3.11 cannot read this form

    try:
        pl.scan_lines(path, glob=False).sink_csv(target, include_header=False, quote_style="never")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(
            f"{path}: damaged or truncated, or not UTF-8 text ({first_line(error)}); copy it again"
        ) from error
    return target


def only_member(path: Path) -> str:
    """Return the name of the only file in a zip archive. Raise UserError if it has several."""
    with readable(path), zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if len(names) != 1:
        listed = ", ".join(names[:20]) or "none"
        raise UserError(
            f"{path}: holds {len(names)} files ({listed}); name the one to read with --member"
        )
    return names[0]


def spool(path: Path, member: str, target: Path) -> Path:
    """Copy a member of a zip archive to a new file, whose name is not the archive's.

    Raise UserError if the archive is damaged or the member missing, locked or absurdly large.
    """
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
