"""Books: Goodreads' shelves and Book-Crossing's ratings."""

from data_prep.catalogue.entry import Layout, Source, Titles

GOODREADS = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads"
GENRES = (
    "children",
    "comics_graphic",
    "fantasy_paranormal",
    "history_biography",
    "mystery_thriller_crime",
    "poetry",
    "romance",
    "young_adult",
)


def _goodreads(genre: str, path: str, clicks: int, megabytes: int) -> Source:
    return Source(
        name=f"goodreads:{genre}",
        title=f"Goodreads, {genre.replace('_', ' ')} books on shelves",
        group="Goodreads, all books or those of a genre",
        file=path.rpartition("/")[2],
        url=f"{GOODREADS}/{path}",
        megabytes=megabytes,
        layout=Layout(kind="json", user="user_id", item="book_id", time="date_added"),
        user_core=5,
        item_core=5,
        clicks=clicks,
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html",
        filters="5-core, as SASRec filters its data",
        note="A click is a book put on a shelf, at the time at which it was added; "
        "`--where=\"is_read = 'true'\"` keeps those that were read.",
        licence="For academic use; no redistribution, no commercial use.",
        citation="M. Wan, J. McAuley. Item Recommendation on Monotonic Behavior Chains. RecSys "
        "2018.",
        time_unit="",
    )


SOURCES = (
    _goodreads("all", "goodreads_interactions_dedup.json.gz", 228_648_342, 11_000),
    *(
        _goodreads(genre, f"byGenre/goodreads_interactions_{genre}.json.gz", 0, 0)
        for genre in GENRES
    ),
    Source(
        name="bookcrossing",
        title="Book-Crossing, ratings of books without times",
        file="BX-CSV-Dump.zip",
        by_hand="download BX-CSV-Dump.zip from the page, or from a copy of it",
        layout=Layout(
            kind="csv",
            user="User-ID",
            item="ISBN",
            time="none",
            separator=";",
            member="BX-Book-Ratings.csv",
            encoding="latin-1",
        ),
        titles=Titles(member="BX-Books.csv", separator=";", quoted=True),
        user_core=5,
        item_core=5,
        clicks=1_149_780,
        page="http://www2.informatik.uni-freiburg.de/~cziegler/BX/",
        filters="5-core, as SASRec filters its data",
        note="There are no times: clicks are in the order of the file, which is none in time, so"
        " that models of sequences cannot be judged by it. A rating of 0 is a click too.",
        licence="For research; its publisher states no licence (C.-N. Ziegler).",
        citation="C.-N. Ziegler, S. M. McNee, J. A. Konstan, G. Lausen. Improving Recommendation "
        "Lists Through Topic Diversification. WWW 2005.",
        time_unit="",
    ),
)
