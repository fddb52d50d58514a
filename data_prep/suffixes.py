"""What the name given as `--dataset` says: a built-in data set, or the format of a file."""

import os

from data_prep.catalogue import CATALOGUE, FAMILIES, members
from data_prep.errors import UserError, nearest

# A text file may also be compressed; a .json file holds JSON lines, or one array of objects.
TEXT_SUFFIXES = (".csv", ".tsv", ".inter", ".jsonl", ".ndjson", ".json", ".txt", ".dat", ".data")
FILE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".arrow", ".ipc", ".feather")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
FOLDER = "/"  # what file_suffix returns for a folder
SEPARATORS = {"tab": "\t", "space": " "}  # names of separators that a command line hides


def file_suffix(dataset: str) -> str:
    """Return the suffix that determines a file's format, such as '.csv' for 'clicks.CSV.gz'.

    Returns '' for the name of a data set of the catalogue, FOLDER for a folder, and what an archive
    ends in. Raises UserError if `dataset` is none of these.
    """
    if dataset in CATALOGUE:
        return ""
    _check_family(dataset)
    parts = dataset.replace("\\", "/").rstrip("/").rsplit("/", 1)
    name = parts[-1].lower()
    for suffix in ARCHIVES:
        if name.endswith(suffix):
            return suffix
    for suffix in FILE_SUFFIXES:
        packed = COMPRESSIONS if suffix in TEXT_SUFFIXES else ()
        if name.endswith((suffix, *(suffix + end for end in packed))):
            return suffix
    looks_like_folder = "/" in dataset and (dataset.endswith("/") or "." not in name)
    if name and (os.path.isdir(dataset) or looks_like_folder):
        return FOLDER
    suffixes = ", ".join(FILE_SUFFIXES)
    known = (
        "one that --dataset=list prints, a folder, or a file that ends in "
        f"{suffixes}, {', '.join(ARCHIVES)} (text files also {', '.join(COMPRESSIONS)})"
    )
    is_path = "." in name or name != dataset.lower()
    kind = "a file in an unknown format" if is_path else "an unknown data set"
    raise UserError(
        f"--dataset: {dataset!r} is {kind}{nearest(dataset, [*CATALOGUE, *FAMILIES])}; expected "
        f"{known}"
    )


def _check_family(dataset: str) -> None:
    """Raise UserError if a name begins like a family's but is not one of its data sets."""
    family, _, member = dataset.partition(":")
    if family not in FAMILIES or (not member and os.path.exists(dataset)):
        return
    names = [name.partition(":")[2] for name in members(family)]
    like = [name for name in names if member and member.lower() in name.lower()]
    close = nearest(like[0], like) if like else nearest(member, names)
    raise UserError(
        f"--dataset: {dataset!r} is none of the data sets of {family}{close}; expected "
        f"{family}:NAME with one of {', '.join(names)}"
    )
