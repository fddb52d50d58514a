"""Places: check-ins, and reviews of businesses."""

from data_prep.catalogue.entry import Layout, Source

POI = "users and places with at least 10 check-ins, as in GETNext"


def _foursquare(city: str, name: str, clicks: int) -> Source:
    return Source(
        name=f"foursquare:{city}",
        title=f"Foursquare, check-ins in {name}",
        group="Foursquare, check-ins in New York or Tokyo",
        file="dataset_tsmc2014.zip",
        by_hand="download the NYC and Tokyo Check-in Dataset from the page",
        layout=Layout(
            kind="csv",
            names=(
                "user",
                "venue",
                "category_id",
                "category",
                "latitude",
                "longitude",
                "timezone",
                "time",
            ),
            header=False,
            user="user",
            item="venue",
            time="time",
            separator="\t",
            quoted=False,
            member=f"dataset_tsmc2014/dataset_TSMC2014_{city}.txt",
            encoding="latin-1",
        ),
        user_core=10,
        item_core=10,
        clicks=clicks,
        page="https://sites.google.com/site/yangdingqi/home/foursquare-dataset",
        filters=POI,
        licence="None stated by its publisher (D. Yang); for research.",
        citation="D. Yang, D. Zhang, V. W. Zheng, Z. Yu. Modeling User Activity Preference by "
        "Leveraging User Spatial Temporal Characteristics in LBSNs. IEEE TSMC: Systems 45(1), "
        "2015.",
        time_unit="",
    )


SOURCES = (
    Source(
        name="gowalla",
        title="Gowalla, check-ins",
        file="loc-gowalla_totalCheckins.txt.gz",
        url="https://snap.stanford.edu/data/loc-gowalla_totalCheckins.txt.gz",
        megabytes=105,
        layout=Layout(
            kind="csv",
            names=("user", "time", "latitude", "longitude", "place"),
            header=False,
            user="user",
            item="place",
            time="time",
            separator="\t",
            quoted=False,
        ),
        user_core=10,
        item_core=10,
        clicks=6_442_890,
        page="https://snap.stanford.edu/data/loc-gowalla.html",
        filters="10-core, as in NGCF and LightGCN",
        licence="None stated by its publisher (SNAP, Stanford); for research.",
        citation="E. Cho, S. A. Myers, J. Leskovec. Friendship and Mobility: User Movement in "
        "Location-Based Social Networks. KDD 2011.",
        time_unit="",
    ),
    _foursquare("NYC", "New York", 227_428),
    _foursquare("TKY", "Tokyo", 573_703),
    Source(
        name="yelp",
        title="Yelp Open Dataset, reviews of businesses",
        file="yelp_academic_dataset_review.json",
        by_hand="accept the terms at the page, download the JSON files, and unpack them",
        layout=Layout(kind="json", user="user_id", item="business_id", time="date"),
        user_core=5,
        item_core=5,
        clicks=6_990_280,
        page="https://business.yelp.com/data/resources/open-dataset/",
        filters="5-core, as in S3-Rec, which uses the reviews since 2019 alone",
        note="Each review is a click; `--where=\"date >= '2019-01-01'\"` keeps those since 2019.",
        licence="Yelp Dataset Terms of Use; for academic use.",
        citation="Yelp Open Dataset. Yelp Inc., 2022.",
        time_unit="",
    ),
)
