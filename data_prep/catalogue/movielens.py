"""MovieLens, by GroupLens: ratings of movies, each of which counts as a click.

The checksums are those that GroupLens publishes beside each archive (ml-20m.zip.md5, and so on).
"""

from data_prep.catalogue.entry import Layout, Source, Titles

URL = "https://files.grouplens.org/datasets/movielens"
PAGE = "https://grouplens.org/datasets/movielens/"


def _earlier(separator: str, member: str) -> Layout:
    """Return the layout of an archive whose files have no header."""
    return Layout(
        kind="csv",
        names=("user", "item", "rating", "time"),
        header=False,
        quoted=False,
        separator=separator,
        member=member,
    )


def _later(folder: str) -> tuple[Layout, Titles]:
    """Return the layouts of an archive of CSV files with headers."""
    layout = Layout(
        kind="csv",
        user="userId",
        item="movieId",
        time="timestamp",
        separator=",",
        member=f"{folder}/ratings.csv",
    )
    titles = Titles(member=f"{folder}/movies.csv", separator=",", encoding="utf-8", quoted=True)
    return layout, titles


def _movielens(
    name: str,
    archive: str,
    clicks: int,
    megabytes: int,
    layouts: tuple[Layout, Titles],
    md5: str = "",
) -> Source:
    return Source(
        name=name,
        title=f"MovieLens {archive.removeprefix('ml-').upper() if md5 else 'latest-small'}, movies",
        file=f"{archive}.zip",
        url=f"{URL}/{archive}.zip",
        md5=md5,
        megabytes=megabytes,
        layout=layouts[0],
        titles=layouts[1],
        item_core=5,
        clicks=clicks,
        page=PAGE,
        filters="items with at least 5 clicks, as in SASRec; every user has at least 20 ratings",
        note='Every rating is a click; `--where="rating >= 4"` keeps the high ones.',
        licence="For research; no redistribution without permission, no commercial use "
        "(GroupLens, see the archive's README).",
        citation="F. M. Harper, J. A. Konstan. The MovieLens Datasets: History and Context. "
        "ACM TiiS 5(4), 2015.",
    )


SOURCES = (
    _movielens(
        "ml1m",
        "ml-1m",
        1_000_209,
        6,
        (_earlier("::", "ml-1m/ratings.dat"), Titles(member="ml-1m/movies.dat", separator="::")),
        "c4d9eecfca2ab87c1945afe126590906",
    ),
    _movielens(
        "ml100k",
        "ml-100k",
        100_000,
        5,
        (_earlier("\t", "ml-100k/u.data"), Titles(member="ml-100k/u.item", separator="|")),
        "0e33842e24a9c977be4e0107933c0723",
    ),
    _movielens(
        "ml10m",
        "ml-10m",
        10_000_054,
        66,
        (
            _earlier("::", "ml-10M100K/ratings.dat"),
            Titles(member="ml-10M100K/movies.dat", separator="::", encoding="utf-8"),
        ),
        "ce571fd55effeba0271552578f2648bd",
    ),
    _movielens(
        "ml20m", "ml-20m", 20_000_263, 199, _later("ml-20m"), "cd245b17a1ae2cc31bb14903e1204af3"
    ),
    _movielens(
        "ml25m", "ml-25m", 25_000_095, 262, _later("ml-25m"), "6b51fb2759a8657d3bfcbfc42b592ada"
    ),
    _movielens(
        "ml32m", "ml-32m", 32_000_204, 239, _later("ml-32m"), "d472be332d4daa821edc399621853b57"
    ),
    # this archive is replaced from time to time, so that no checksum stays right
    _movielens("ml-latest-small", "ml-latest-small", 100_836, 1, _later("ml-latest-small")),
)
