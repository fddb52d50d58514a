"""The catalogue of data sets: source, file layout, default filters, licence and citation."""

import dataclasses
import os
from pathlib import Path

from data_prep.settings import DataConfig, UserError
from data_prep.suffixes import DATASETS, SEPARATORS, file_suffix

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
AMAZON = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a file holds clicks.

    kind: csv, json, parquet, ipc or sequences; "" if there is no file, or if its name decides.
    user, item, time: column names, "" if they are to be found. separator: "" if it is to be found.
    names: those of the columns of a file without header. header: None if it is to be found.
    comment: how lines begin that are no rows. member: the file in a zip archive. time_format: of
    dates, "" if it is to be found. where: a condition in SQL, see where.py.
    """

    kind: str
    user: str = ""
    item: str = ""
    time: str = ""
    separator: str = ""
    names: tuple[str, ...] = ()
    header: bool | None = None
    quoted: bool = True
    comment: str = ""
    member: str = ""
    time_format: str = ""
    where: str = ""

    def of_file(self, name: str) -> "Layout":
        """Return this layout with what a file's name says about it."""
        suffix = file_suffix(name)
        kind = KINDS.get(suffix, "csv")
        if self.kind == "sequences" and kind != "csv":
            raise UserError(f"--layout=sequences: {name} is {kind}; expected a text file")
        return dataclasses.replace(
            self,
            kind=self.kind or kind,
            separator=self.separator or ("\t" if suffix == ".inter" else ""),
            quoted=self.quoted and suffix != ".inter",
        )


KINDS = {
    ".parquet": "parquet",
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".arrow", ".ipc", ".feather"), "ipc"),
}
NO_FILE = Layout(kind="")  # for generated data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Titles:
    """Where a zip archive holds the titles of its items: a member with lines of id and title."""

    member: str
    separator: str
    encoding: str = "latin-1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set: its file, its licence, its default filters (a core of 0 or 1 filters nothing).

    md5: the official checksum, if one is published. other_file, other_layout: another file, used if
    it is in data_dir and `file` is not.
    """

    name: str
    file: str = ""
    url: str = ""
    md5: str = ""
    megabytes: int = 0
    layout: Layout = NO_FILE
    user_core: int = 1
    item_core: int = 1
    titles: Titles | None = None
    other_file: str = ""
    other_layout: Layout = NO_FILE
    licence: str = ""
    citation: str = ""
    time_unit: str = "seconds"


# user, item, rating, time
_RATINGS = Layout(
    kind="csv", names=("user", "item", "_", "time"), header=False, quoted=False, separator=","
)


def _movielens(
    name: str, file: str, md5: str, megabytes: int, layout: Layout, titles: Titles
) -> Source:
    return Source(
        name=name,
        file=file,
        url=f"{GROUPLENS}/{file}",
        md5=md5,
        megabytes=megabytes,
        layout=layout,
        titles=titles,
        item_core=5,
        licence="For research; no redistribution without permission, no commercial use "
        "(GroupLens, see the archive's README).",
        citation="F. M. Harper, J. A. Konstan. The MovieLens Datasets: History and Context. "
        "ACM TiiS 5(4), 2015.",
    )


def _amazon(name: str, category: str, megabytes: int) -> Source:
    return Source(
        name=name,
        file=f"reviews_{category}_5.json.gz",
        url=f"{AMAZON}/reviews_{category}_5.json.gz",
        megabytes=megabytes,
        layout=Layout(kind="json", user="reviewerID", item="asin", time="unixReviewTime"),
        user_core=5,
        item_core=5,
        other_file=f"ratings_{category}.csv",
        other_layout=_RATINGS,
        licence="None stated by its publisher (J. McAuley, UCSD); for research.",
        citation="R. He, J. McAuley. Ups and Downs: Modeling the Visual Evolution of Fashion "
        "Trends. WWW 2016.",
    )


CATALOGUE = {
    source.name: source
    for source in (
        _movielens(
            "ml1m",
            "ml-1m.zip",
            "c4d9eecfca2ab87c1945afe126590906",
            6,
            dataclasses.replace(_RATINGS, separator="::", member="ml-1m/ratings.dat"),
            Titles(member="ml-1m/movies.dat", separator="::"),
        ),
        _movielens(
            "ml100k",
            "ml-100k.zip",
            "0e33842e24a9c977be4e0107933c0723",
            5,
            dataclasses.replace(_RATINGS, separator="\t", member="ml-100k/u.data"),
            Titles(member="ml-100k/u.item", separator="|"),
        ),
        _amazon("beauty", "Beauty", 44),
        _amazon("electronics", "Electronics", 496),
        Source(
            name="synthetic", licence="Generated by this package; none applies.", citation="None."
        ),
    )
}
assert tuple(CATALOGUE) == DATASETS


def find(config: DataConfig) -> Source:
    """Return the catalogue's entry, or a new one for a user's own file.

    The latter has the columns that the settings name, and 5-core filters for users and items.
    """
    suffix = file_suffix(config.dataset)
    if not suffix:
        return CATALOGUE[config.dataset]
    layout = Layout(
        kind="sequences" if config.layout == "sequences" else "",
        user=config.user_col,
        item=config.item_col,
        time=config.time_col,
        separator=SEPARATORS.get(config.separator, config.separator),
        names=tuple(name.strip() for name in config.columns.split(",")) if config.columns else (),
        quoted=config.quoted,
        comment=config.comment_prefix,
        member=config.member,
        time_format=config.time_format,
        where=config.where,
    )
    path = without_tilde(config.dataset)
    return Source(
        name=path.name.split(".")[0].strip("*") or path.parent.name or "file",
        file=str(path),
        layout=layout,
        user_core=5,
        item_core=5,
        licence="Your own file.",
        citation="None.",
        time_unit="",
    )


def user_folder(flag: str | os.PathLike, variable: str, name: str) -> Path:
    """Return the folder of the flag, of the environment variable, or one in the user's cache."""
    chosen = str(flag) or (os.environ.get(variable, "") if variable else "")
    if chosen:
        return without_tilde(chosen)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else without_tilde("~/.cache")) / "ttt4rec_jax" / name


def without_tilde(path: str) -> Path:
    """Return a path with ~ replaced by the user's home. Raises UserError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: this user has no home; set HOME, or name folders that exist by "
            "--data_dir, --cache_dir and --program_cache"
        ) from error


def existing_file(source: Source, data_dir: Path) -> tuple[Path, Layout] | None:
    """Return a source's file and its layout, None if it has to be downloaded."""
    if not source.url:
        return Path(source.file), source.layout
    if (data_dir / source.file).exists():
        return data_dir / source.file, source.layout
    if source.other_file and (data_dir / source.other_file).exists():
        return data_dir / source.other_file, source.other_layout
    return None
