"""The sequence files of the S3-Rec repository, which many later papers use unchanged.

Each line holds a user and the user's items in order, already filtered to 5-cores.
"""

from data_prep.catalogue.entry import Layout, Source

URL = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data"
CLICKS = {  # of the paper's table of data sets
    "Beauty": 198_502,
    "Sports_and_Outdoors": 296_337,
    "Toys_and_Games": 167_597,
    "Yelp": 316_354,
    "LastFM": 52_551,
}


def _s3rec(name: str) -> Source:
    return Source(
        name=f"s3rec:{name}",
        title=f"S3-Rec's {name.replace('_', ' ')}, sequences without times",
        group="S3-Rec's sequences, without times",
        file=f"s3rec/{name}.txt",
        url=f"{URL}/{name}.txt",
        megabytes=2 if name in ("Sports_and_Outdoors", "Yelp") else 1,
        layout=Layout(kind="sequences"),
        clicks=CLICKS[name],
        page="https://github.com/RUCAIBox/CIKM2020-S3Rec",
        filters="none, since the files are 5-cores",
        licence="None stated by its publisher (RUCAIBox); made from data of Amazon, Yelp, Last.fm.",
        citation="K. Zhou, H. Wang, W. X. Zhao, Y. Zhu, S. Wang, F. Zhang, Z. Wang, J.-R. Wen. "
        "S3-Rec: Self-Supervised Learning for Sequential Recommendation with Mutual Information "
        "Maximization. CIKM 2020.",
        time_unit="",
    )


SOURCES = tuple(map(_s3rec, CLICKS))
