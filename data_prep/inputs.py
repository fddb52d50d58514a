"""The files behind `--dataset`: one, those of a folder or a pattern, or a member of an archive.

What polars does not read as it is, is unpacked into a folder for temporary files first.
"""

import dataclasses
import glob
import re
from pathlib import Path
from typing import NamedTuple

from data_prep import archives
from data_prep.catalogue.entry import Layout
from data_prep.settings import UserError
from data_prep.suffixes import ARCHIVES, COMPRESSIONS, file_suffix

PATTERN = re.compile(r"[*?\[]")
KINDS = {
    ".parquet": "parquet",
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".arrow", ".ipc", ".feather"), "ipc"),
}


class Part(NamedTuple):
    """A file that can be read, and what its place says.

    label: how errors name it. constants: columns whose values are in the names of its folders, as
    in day=7/x.csv. lines: the number of its lines, 0 if unknown.
    """

    path: Path
    label: str
    layout: Layout
    constants: dict[str, str]
    lines: int


def files_of(path: Path) -> list[Path]:
    """Return the files of a path, which may be a folder or a pattern; numbers in order.

    Files whose names, or whose folders' names, begin with "." or "_" are left out. Raise UserError
    if there are none, or several kinds.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and _is_data(file, path)]
    elif PATTERN.search(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
        found = [file for file in found if file.is_file()]
    else:
        raise UserError(
            f"--dataset: no file {path.absolute()}; name a file or a folder with your own clicks, "
            "or a data set that --dataset=list prints"
        )
    if not found:
        raise UserError(
            f"--dataset: {path} has no file of clicks; expected .parquet, .csv, .jsonl and so on"
        )
    suffixes = sorted({file_suffix(file.name) for file in found})
    if len(suffixes) > 1:
        raise UserError(
            f"--dataset: {path} holds files of several kinds ({', '.join(suffixes)}); name those "
            f"to be read with a pattern, such as '{path}/*{suffixes[0]}'"
        )
    return sorted(found, key=_natural)


def root_of(path: Path) -> Path:
    """Return the folder below which the names of folders may hold values of columns."""
    while PATTERN.search(str(path)):
        path = path.parent
    return path if path.is_dir() else path.parent


def parts(path: Path, layout: Layout, folder: Path) -> list[Part]:
    """Return the files of a path, ready to be read. folder: for what has to be unpacked."""
    root = root_of(path)
    return [_part(file, root, layout, folder, number) for number, file in enumerate(files_of(path))]


def _part(file: Path, root: Path, layout: Layout, folder: Path, number: int) -> Part:
    with archives.readable(file):
        if file.stat().st_size == 0:
            raise UserError(f"{file}: is empty; expected clicks")
        with open(file, "rb"):
            pass
    label = str(file)
    name = file.name.lower()
    path = folder / f"source-{number}"
    if name.endswith(ARCHIVES):
        member = layout.member or archives.only_member(file)
        label = f"{file}: {member}"
        name = member.rsplit("/", 1)[-1].lower()
        path = archives.spool(file, member, path)
        layout = layout if layout.kind else of_file(layout, name)
    else:
        if layout.member and layout.kind in ("", "sequences"):  # of a user's own file
            raise UserError(
                f"--member={layout.member}: {file} is not an archive ({', '.join(ARCHIVES)})"
            )
        layout = layout if layout.kind and layout.kind != "sequences" else of_file(layout, name)
        if not any(letter in str(file) for letter in "*?[]{}"):
            path = file
        else:  # polars would interpret the path as a pattern
            path.symlink_to(file.absolute())
    compression = next((end for end in COMPRESSIONS[1:] if name.endswith(end)), "")
    if compression:
        path = archives.unpack(path, compression, folder / f"plain-{number}")
    if layout.encoding:
        path = archives.as_utf8(path, layout.encoding, folder / f"utf8-{number}")
    constants = dict(
        part.split("=", 1) for part in file.relative_to(root).parent.parts if "=" in part
    )
    return Part(path, label, layout, constants, archives.check_gzip(path))


def of_file(layout: Layout, name: str) -> Layout:
    """Return a layout with what a file's name says about it. Raise UserError if they conflict."""
    suffix = file_suffix(name)
    kind = KINDS.get(suffix, "csv")
    if layout.kind == "sequences" and kind != "csv":
        raise UserError(f"--layout=sequences: {name} is {kind}; expected a text file")
    return dataclasses.replace(
        layout,
        kind=layout.kind or kind,
        separator=layout.separator or ("\t" if suffix == ".inter" else ""),
        quoted=layout.quoted and suffix != ".inter",
    )


def _is_data(file: Path, root: Path) -> bool:
    if any(part.startswith((".", "_")) for part in file.relative_to(root).parts):
        return False
    try:
        return file_suffix(file.name) not in ("", *ARCHIVES)
    except UserError:
        return False


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts 2.csv before 10.csv."""
    pieces = re.split(r"([0-9]+)", str(path))
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
