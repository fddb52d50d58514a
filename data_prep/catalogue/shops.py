"""Clicks and purchases of shops: sessions or customers, and products."""

from data_prep.catalogue.entry import Layout, Source

SESSIONS = "items with at least 5 clicks and sessions of at least 2, as in GRU4Rec and "
EVENTS = Layout(
    kind="csv",
    user="visitorid",
    item="itemid",
    time="timestamp",
    separator=",",
    member="events.csv",
    where="event = 'view'",
)

SOURCES = (
    Source(
        name="retailrocket",
        title="RetailRocket, views of products by visitors",
        file="retailrocket/events.csv",
        by_hand="download it from the page, with an account at Kaggle",
        layout=EVENTS,
        user_core=5,
        item_core=5,
        clicks=2_756_101,
        page="https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset",
        filters="5-core, as SASRec filters its data",
        note="Views are clicks; `--where=\"event = 'transaction'\"` reads purchases instead, and "
        '`--where="itemid > 0"` events of every kind.',
        licence="CC BY-NC-SA 4.0; for non-commercial use, with attribution, shared alike.",
        citation="R. Zykov, N. Artem, A. Alexander. Retailrocket recommender system dataset. "
        "Kaggle, 2016.",
        time_unit="milliseconds",
    ),
    Source(
        name="yoochoose",
        title="YooChoose (RecSys Challenge 2015), clicks in sessions",
        file="yoochoose-clicks.dat",
        by_hand="download https://s3-eu-west-1.amazonaws.com/yc-rdata/yoochoose-data.7z and unpack "
        "it with 7-Zip",
        layout=Layout(
            kind="csv",
            names=("session", "time", "item", "category"),
            header=False,
            user="session",
            item="item",
            time="time",
            separator=",",
            quoted=False,
        ),
        user_core=2,
        item_core=5,
        clicks=33_003_944,
        page="https://recsys.acm.org/recsys15/challenge/",
        filters=SESSIONS + "SR-GNN",
        note="A session is a user. All sessions are read; papers that write 1/64 or 1/4 use the "
        "last ones alone.",
        licence="CC BY-NC-ND 4.0; for non-commercial use, with attribution, unchanged (see the "
        "archive's README).",
        citation="D. Ben-Shimon, A. Tsikinovsky, M. Friedmann, B. Shapira, L. Rokach, J. Hoerle. "
        "RecSys Challenge 2015 and the YOOCHOOSE Dataset. RecSys 2015.",
        time_unit="",
    ),
    Source(
        name="diginetica",
        title="Diginetica (CIKM Cup 2016), views of products in sessions",
        file="train-item-views.csv",
        by_hand="register at the page, and download train-item-views.csv",
        layout=Layout(
            kind="csv",
            user="sessionId",
            item="itemId",
            time="eventdate,timeframe",
            separator=";",
            member="train-item-views.csv",
            time_format="date+ms",
        ),
        user_core=2,
        item_core=5,
        clicks=1_235_380,
        page="https://competitions.codalab.org/competitions/11161",
        filters=SESSIONS + "SR-GNN",
        note="A session is a user, since most rows name no user. Clicks are in the order of "
        "their date and of the milliseconds since the session's start.",
        licence="None stated by its publisher (DIGINETICA); the terms of the competition apply.",
        citation="CIKM Cup 2016 Track 2: Personalized E-Commerce Search Challenge. DIGINETICA, "
        "2016.",
        time_unit="",
    ),
    Source(
        name="hm",
        title="H&M (Kaggle, 2022), purchases of articles by customers",
        file="hm/transactions_train.csv",
        by_hand="accept the competition's rules at Kaggle, and download transactions_train.csv",
        layout=Layout(
            kind="csv",
            user="customer_id",
            item="article_id",
            time="t_dat",
            separator=",",
            member="transactions_train.csv",
        ),
        user_core=5,
        item_core=5,
        clicks=31_788_324,
        page="https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations",
        filters="5-core, as SASRec filters its data",
        note="Times are days, so that many clicks tie. An article bought twice on a day counts "
        "twice, unless `--dedup` is given.",
        licence="The rules of the competition; non-commercial and academic use.",
        citation="H&M Group. H&M Personalized Fashion Recommendations. Kaggle, 2022.",
        time_unit="",
    ),
    Source(
        name="otto",
        title="OTTO, clicks on products in sessions",
        file="otto-recsys-train.jsonl",
        by_hand="download otto-recsys-train.jsonl from the page, with an account at Kaggle",
        layout=Layout(
            kind="json",
            user="session",
            item="aid",
            time="ts",
            events="events",
            member="otto-recsys-train.jsonl",
            where="type = 'clicks'",
        ),
        user_core=2,
        item_core=5,
        clicks=216_716_096,
        page="https://www.kaggle.com/datasets/otto/recsys-dataset",
        filters=SESSIONS + "TRON (Wilm et al., 2023)",
        note="A session is a user. `--where=\"type = 'orders'\"` reads orders instead of clicks.",
        licence="CC BY 4.0; with attribution.",
        citation="P. Normann, S. Baumeister, T. Wilm. OTTO Recommender Systems Dataset. Kaggle, "
        "2022. doi:10.34740/KAGGLE/DSV/4991874.",
        time_unit="milliseconds",
    ),
)
