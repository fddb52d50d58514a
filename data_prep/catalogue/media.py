"""Music, news, videos and games."""

import dataclasses

from data_prep.catalogue.entry import Layout, Source, Titles

MIND = Source(
    name="mind",
    group="MIND, news clicked by users",
    by_hand="accept the licence at the page, and download the archive",
    layout=Layout(
        kind="impressions",
        time_format="%m/%d/%Y %I:%M:%S %p",
        member="behaviors.tsv",
    ),
    titles=Titles(member="news.tsv", separator="\t", encoding="utf-8", column=3),
    user_core=5,
    item_core=5,
    page="https://msnews.github.io/",
    filters="5-core, as SASRec filters its data",
    note="Clicks are first the news of a user's history, whose times are not published and "
    "count as 12 October 2019 (the first day of the data), and then those of each "
    "impression that are marked with 1. The archive of the training set alone is read.",
    licence="Microsoft Research License Terms; for research, non-commercial.",
    citation="F. Wu et al. MIND: A Large-scale Dataset for News Recommendation. ACL 2020.",
    time_unit="",
)

SOURCES = (
    Source(
        name="lastfm1k",
        title="Last.fm 1K, artists listened to",
        file="lastfm-dataset-1K.tar.gz",
        url="https://zenodo.org/records/6090214/files/lastfm-dataset-1K.tar.gz",
        md5="a79a6808f54f73354789a9fb02cb1e41",
        megabytes=673,
        layout=Layout(
            kind="csv",
            names=("user", "time", "artist_id", "artist", "track_id", "track"),
            header=False,
            user="user",
            item="artist",
            time="time",
            separator="\t",
            quoted=False,
            member="lastfm-dataset-1K/userid-timestamp-artid-artname-traid-traname.tsv",
        ),
        user_core=5,
        item_core=5,
        clicks=19_150_868,
        page="https://zenodo.org/records/6090214",
        filters="5-core, as SASRec filters its data",
        note="The item is the artist, as in session-based papers (RepeatNet), and by name, since "
        "69,420 of 176,948 artists have no id. Tracks of one artist in a row are repeats, which "
        "`--dedup=consecutive` drops.",
        licence="For non-commercial use; with permission of Last.fm (see the archive's README).",
        citation="O. Celma. Music Recommendation and Discovery in the Long Tail. Springer, 2010.",
        time_unit="",
    ),
    dataclasses.replace(
        MIND,
        name="mind:small",
        title="MIND small, news clicked by 50,000 users",
        file="MINDsmall_train.zip",
    ),
    dataclasses.replace(
        MIND,
        name="mind:large",
        title="MIND, news clicked by a million users",
        file="MINDlarge_train.zip",
    ),
    Source(
        name="kuairec",
        title="KuaiRec 2.0 (big matrix), short videos watched",
        file="KuaiRec.zip",
        url="https://zenodo.org/records/18164998/files/KuaiRec.zip",
        md5="261550d472c48eff4990fb13c0e5bcf7",
        megabytes=432,
        layout=Layout(
            kind="csv",
            user="user_id",
            item="video_id",
            time="timestamp",
            separator=",",
            member="KuaiRec 2.0/data/big_matrix.csv",
            where="watch_ratio >= 2",
        ),
        user_core=5,
        item_core=5,
        clicks=12_530_806,
        page="https://kuairec.com/",
        filters="5-core, as SASRec filters its data",
        note="A click is a video watched for twice its length or more, as in the paper; "
        '`--where="watch_ratio >= 0"` keeps all.',
        licence="CC BY-SA 4.0; with attribution, shared alike.",
        citation="C. Gao et al. KuaiRec: A Fully-observed Dataset and Insights for Evaluating "
        "Recommender Systems. CIKM 2022.",
        time_unit="",
    ),
    Source(
        name="steam",
        title="Steam, reviews of games",
        file="steam_reviews.json.gz",
        url="https://cseweb.ucsd.edu/~wckang/steam_reviews.json.gz",
        megabytes=1300,
        layout=Layout(kind="json", user="username", item="product_id", time="date"),
        user_core=5,
        item_core=5,
        clicks=7_793_069,
        page="https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        filters="5-core, as in SASRec",
        note="Each review is a click, and a display name a user. Times are days. The lines are "
        "dicts of Python, which take minutes to read.",
        licence="None stated by its publisher (J. McAuley, UCSD); for research.",
        citation="W.-C. Kang, J. McAuley. Self-Attentive Sequential Recommendation. ICDM 2018.",
        time_unit="",
    ),
)
