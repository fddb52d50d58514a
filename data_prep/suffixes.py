"""What the name given as `--dataset` says: a built-in data set, or the format of a file."""

import os

from data_prep.errors import UserError, nearest

DATASETS = ("ml1m", "ml100k", "beauty", "electronics", "synthetic")
# A text file may also be compressed; a .json file holds JSON lines, or one array of objects.
TEXT_SUFFIXES = (".csv", ".tsv", ".inter", ".jsonl", ".ndjson", ".json", ".txt", ".dat", ".data")
FILE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".arrow", ".ipc", ".feather")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
FOLDER = "/"  # what file_suffix returns for a folder
SEPARATORS = {"tab": "\t", "space": " "}  # names of separators that a command line hides


def file_suffix(dataset: str) -> str:
    """Return the suffix that determines a file's format, such as '.csv' for 'clicks.CSV.gz'.

    Returns '' for the name of a built-in data set, FOLDER for a folder, '.zip' for an archive.
    Raises UserError if `dataset` is none of these.
    """
    if dataset in DATASETS:
        return ""
    parts = dataset.replace("\\", "/").rstrip("/").rsplit("/", 1)
    name = parts[-1].lower()
    if name.endswith(".zip"):
        return ".zip"
    for suffix in FILE_SUFFIXES:
        packed = COMPRESSIONS if suffix in TEXT_SUFFIXES else ()
        if name.endswith((suffix, *(suffix + end for end in packed))):
            return suffix
    looks_like_folder = "/" in dataset and (dataset.endswith("/") or "." not in name)
    if name and (os.path.isdir(dataset) or looks_like_folder):
        return FOLDER
    suffixes = ", ".join(FILE_SUFFIXES)
    known = (
        f"{', '.join(DATASETS)}, a folder, or a file that ends in {suffixes} or .zip (text files "
        f"also {', '.join(COMPRESSIONS)})"
    )
    is_path = "." in name or name != dataset.lower()
    kind = "a file in an unknown format" if is_path else "an unknown data set"
    raise UserError(
        f"--dataset: {dataset!r} is {kind}{nearest(dataset, DATASETS)}; expected {known}"
    )
