"""Compressed files: gzip is read in place, other forms and members of archives are unpacked.

Nothing is unpacked to a path that an archive names.
"""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import shutil
import tarfile
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
        tarfile.TarError,
        NotImplementedError,
        UnicodeDecodeError,  # of a member's name
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


def as_utf8(path: Path, encoding: str, target: Path) -> Path:
    """Write a text file of another encoding as UTF-8 to a new file, and return it."""
    with readable(path), open_text(path) as stream, open(target, "wb") as file:
        recoded = codecs.EncodedFile(stream, "utf-8", encoding, errors="replace")
        while part := recoded.read(1 << 20):
            file.write(part)
    return target


def only_member(path: Path) -> str:
    """Return the name of the only file in an archive. Raise UserError if it has several."""
    names = [name for name in _files(path) if not name.startswith("__MACOSX/")]
    if len(names) != 1:
        listed = ", ".join(names[:20]) or "none"
        raise UserError(
            f"{path}: holds {len(names)} files ({listed}); name the one to read with --member"
        )
    return names[0]


def _files(path: Path) -> list[str]:
    """Return the names of an archive's files."""
    with readable(path):
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                names = (info.filename for info in archive.infolist())
                # ZipInfo.is_dir fails for a file without a name
                return [name for name in names if name and not name.endswith("/")]
        with tarfile.open(path, "r|*") as packed:
            return [entry.name for entry in packed if entry.isfile()]


def spool(path: Path, member: str, target: Path) -> Path:
    """Copy a member of an archive to a new file, whose name is not the archive's.

    The member is also found in another folder of the archive, if no other file has its name. Raise
    UserError if the archive is damaged or the member missing, locked or absurdly large.
    """
    with readable(path):
        if not path.name.lower().endswith(".zip"):
            return _spool_tar(path, member, target)
        with zipfile.ZipFile(path) as archive:
            info = _checked(archive, path, member)
            with archive.open(info) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    return target


def _spool_tar(path: Path, member: str, target: Path) -> Path:
    names = _files(path)
    name = _named(member, names)
    if not name:
        raise _no_member(path, member, names)
    packed = path.stat().st_size
    with tarfile.open(path, "r|*") as archive, open(target, "wb") as file:
        entry = next(entry for entry in archive if entry.name == name)
        if _is_absurd(entry.size, packed):
            raise _bomb(path, member, entry.size, packed)
        source = archive.extractfile(entry)
        assert source is not None  # it is a file
        shutil.copyfileobj(source, file, 1 << 20)
    return target


def read_member(path: Path, member: str) -> bytes | None:
    """Return the bytes of a small member of a zip archive, None if it does not exist."""
    with readable(path), zipfile.ZipFile(path) as archive:
        if not _named(member, archive.namelist()):
            return None
        return archive.read(_checked(archive, path, member))


def _named(member: str, names: list[str]) -> str:
    """Return the member among an archive's files, "" if it is not there or not unique."""
    if member in names:
        return member
    last = member.rpartition("/")[2]
    found = [name for name in names if name.rpartition("/")[2] == last]
    found = [name for name in found if not name.startswith("__MACOSX/")]
    return found[0] if len(found) == 1 else ""


def _no_member(path: Path, member: str, names: list[str]) -> UserError:
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return UserError(
        f"{path}: has no member {member!r}{nearest(member, names)}; its members are "
        f"{listed or 'none'}; use the official archive"
    )


def _bomb(path: Path, member: str, size: int, packed: int) -> UserError:
    return UserError(
        f"{path}: member {member!r} declares {size} bytes from {packed}, {_EXPECTED_SIZE}; it "
        "looks like an archive bomb; use the official archive"
    )


def _checked(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    """Return a member's entry in the archive's directory.

    Raise UserError if the member is missing or encrypted, or if its declared size is absurd.
    """
    name = _named(member, archive.namelist())
    if not name:
        raise _no_member(path, member, archive.namelist())
    info = archive.getinfo(name)
    packed = max(info.compress_size, 1)
    if info.flag_bits & 1:
        raise UserError(f"{path}: member {member!r} is encrypted; use the official archive")
    if _is_absurd(info.file_size, packed):
        raise _bomb(path, member, info.file_size, packed)
    return info
