"""Read .npy and .npz files that may come from elsewhere: sizes are checked before memory is taken.

The header of an array says how large it is; a false one could ask for any amount of memory.
"""

import io
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

# deflate makes a file at most this many times smaller (https://zlib.net/zlib_tech.html)
MOST_DEFLATED = 1032
# what NumPy's parser of headers raises beside ValueError
HEADER_ERRORS = (tokenize.TokenError, SyntaxError, RecursionError, MemoryError)


def load(path: Path, mapped: bool = False) -> np.ndarray:
    """Return the array in a .npy file.

    mapped: leave it on disk, so that only the parts that are used are read. Raises OSError, or
    ValueError if the file is not exactly as long as its header says.
    """
    with open(path, "rb") as file:
        check_header(file, os.fstat(file.fileno()).st_size)
        if not mapped:
            file.seek(0)
            return np.load(file, allow_pickle=False)
    return np.load(path, allow_pickle=False, mmap_mode="r")


def load_all(content: bytes, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the arrays of these names in a .npz file, given its bytes.

    Raises ValueError if they are not as large as their headers say, KeyError if one is missing.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: _member(archive, archive.getinfo(f"{name}.npy")) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def check_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless a .npy file of `size` bytes has the array that its header says."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} of NumPy, expected 1.0 or 2.0")
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, _, dtype = read_header(file)
    except HEADER_ERRORS as error:
        raise ValueError(f"its header is not one of NumPy ({type(error).__name__})") from error
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or expected != size:
        raise ValueError(
            f"an array of shape {shape} and type {dtype} needs {expected:,} bytes, found {size:,}"
        )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.file_size > MOST_DEFLATED * info.compress_size:
        raise ValueError(
            f"{info.filename}: {info.file_size:,} bytes in {info.compress_size:,} compressed ones"
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename}: an unknown kind of compression")
    with archive.open(info) as file:
        check_header(file, info.file_size)
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
