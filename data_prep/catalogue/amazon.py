"""Amazon's reviews, by J. McAuley's group (UCSD), by category: each review is a click.

The counts are those of the publisher's pages, of reviews in the 5-core files.
"""

from data_prep.catalogue.entry import Layout, Source

URL_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
LICENCE = "None stated by its publisher (J. McAuley, UCSD); for research."
REVIEWS = Layout(kind="json", user="reviewerID", item="asin", time="unixReviewTime")
RATINGS = Layout(
    kind="csv",
    names=("user", "item", "rating", "time"),
    header=False,
    quoted=False,
    separator=",",
)
RATINGS_2018 = Layout(  # the first two columns are the other way round
    kind="csv",
    names=("item", "user", "rating", "time"),
    header=False,
    quoted=False,
    separator=",",
)
RATINGS_2023 = Layout(
    kind="csv", user="user_id", item="parent_asin", time="timestamp", separator=","
)

CATEGORIES_2014 = {
    "Amazon_Instant_Video": 37_126,
    "Apps_for_Android": 752_937,
    "Automotive": 20_473,
    "Baby": 160_792,
    "Beauty": 198_502,
    "Books": 8_898_041,
    "CDs_and_Vinyl": 1_097_592,
    "Cell_Phones_and_Accessories": 194_439,
    "Clothing_Shoes_and_Jewelry": 278_677,
    "Digital_Music": 64_706,
    "Electronics": 1_689_188,
    "Grocery_and_Gourmet_Food": 151_254,
    "Health_and_Personal_Care": 346_355,
    "Home_and_Kitchen": 551_682,
    "Kindle_Store": 982_619,
    "Movies_and_TV": 1_697_533,
    "Musical_Instruments": 10_261,
    "Office_Products": 53_258,
    "Patio_Lawn_and_Garden": 13_272,
    "Pet_Supplies": 157_836,
    "Sports_and_Outdoors": 296_337,
    "Tools_and_Home_Improvement": 134_476,
    "Toys_and_Games": 167_597,
    "Video_Games": 231_780,
}
CATEGORIES_2018 = {
    "AMAZON_FASHION": 3_176,
    "All_Beauty": 5_269,
    "Appliances": 2_277,
    "Arts_Crafts_and_Sewing": 494_485,
    "Automotive": 1_711_519,
    "Books": 27_164_983,
    "CDs_and_Vinyl": 1_443_755,
    "Cell_Phones_and_Accessories": 1_128_437,
    "Clothing_Shoes_and_Jewelry": 11_285_464,
    "Digital_Music": 169_781,
    "Electronics": 6_739_590,
    "Gift_Cards": 2_972,
    "Grocery_and_Gourmet_Food": 1_143_860,
    "Home_and_Kitchen": 6_898_955,
    "Industrial_and_Scientific": 77_071,
    "Kindle_Store": 2_222_983,
    "Luxury_Beauty": 34_278,
    "Magazine_Subscriptions": 2_375,
    "Movies_and_TV": 3_410_019,
    "Musical_Instruments": 231_392,
    "Office_Products": 800_357,
    "Patio_Lawn_and_Garden": 798_415,
    "Pet_Supplies": 2_098_325,
    "Prime_Pantry": 137_788,
    "Software": 12_805,
    "Sports_and_Outdoors": 2_839_940,
    "Tools_and_Home_Improvement": 2_070_831,
    "Toys_and_Games": 1_828_971,
    "Video_Games": 497_577,
}
# The counts of the 5-core files of 2023 that are known; 0 for the others.
CATEGORIES_2023 = dict.fromkeys(
    (
        "All_Beauty",
        "Amazon_Fashion",
        "Appliances",
        "Arts_Crafts_and_Sewing",
        "Automotive",
        "Baby_Products",
        "Beauty_and_Personal_Care",
        "Books",
        "CDs_and_Vinyl",
        "Cell_Phones_and_Accessories",
        "Clothing_Shoes_and_Jewelry",
        "Digital_Music",
        "Electronics",
        "Gift_Cards",
        "Grocery_and_Gourmet_Food",
        "Handmade_Products",
        "Health_and_Household",
        "Health_and_Personal_Care",
        "Home_and_Kitchen",
        "Industrial_and_Scientific",
        "Kindle_Store",
        "Magazine_Subscriptions",
        "Movies_and_TV",
        "Musical_Instruments",
        "Office_Products",
        "Patio_Lawn_and_Garden",
        "Pet_Supplies",
        "Software",
        "Sports_and_Outdoors",
        "Subscription_Boxes",
        "Tools_and_Home_Improvement",
        "Toys_and_Games",
        "Video_Games",
    ),
    0,
) | {
    "Baby_Products": 943_073,
    "Office_Products": 1_243_186,
    "Toys_and_Games": 3_861_886,
    "Video_Games": 814_586,
}


def _amazon2014(name: str, category: str, megabytes: int = 0) -> Source:
    return Source(
        name=name,
        title=f"Amazon 2014, {category.replace('_', ' ')}, 5-core",
        group="Amazon 2014 by category, 5-core" if ":" in name else "",
        file=f"reviews_{category}_5.json.gz",
        url=f"{URL_2014}/reviews_{category}_5.json.gz",
        megabytes=megabytes,
        layout=REVIEWS,
        user_core=5,
        item_core=5,
        others=((f"ratings_{category}.csv", RATINGS),),
        clicks=CATEGORIES_2014[category],
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        filters="5-core, as in SASRec and S3-Rec",
        licence=LICENCE,
        citation="R. He, J. McAuley. Ups and Downs: Modeling the Visual Evolution of Fashion "
        "Trends. WWW 2016.",
    )


def _amazon2018(category: str) -> Source:
    return Source(
        name=f"amazon2018:{category}",
        title=f"Amazon 2018, {category.replace('_', ' ')}, 5-core",
        group="Amazon 2018 by category, 5-core",
        file=f"amazon2018/{category}_5.json.gz",
        url=f"{UCSD}/amazon_v2/categoryFilesSmall/{category}_5.json.gz",
        layout=REVIEWS,
        user_core=5,
        item_core=5,
        others=((f"amazon2018/{category}.csv", RATINGS_2018),),
        clicks=CATEGORIES_2018[category],
        page="https://nijianmo.github.io/amazon/index.html",
        filters="5-core, as in SASRec and S3-Rec",
        note="Read from the publisher's 5-core file of reviews.",
        licence=LICENCE,
        citation="J. Ni, J. Li, J. McAuley. Justifying Recommendations using Distantly-Labeled "
        "Reviews and Fine-Grained Aspects. EMNLP-IJCNLP 2019.",
    )


def _amazon2023(category: str) -> Source:
    return Source(
        name=f"amazon2023:{category}",
        title=f"Amazon 2023, {category.replace('_', ' ')}, 5-core",
        group="Amazon 2023 by category, 5-core",
        file=f"amazon2023/{category}.csv.gz",
        url=f"{UCSD}/amazon_2023/benchmark/5core/rating_only/{category}.csv.gz",
        layout=RATINGS_2023,
        user_core=5,
        item_core=5,
        others=((f"amazon2023/{category}.csv", RATINGS_2023),),
        clicks=CATEGORIES_2023[category],
        page="https://amazon-reviews-2023.github.io/",
        filters="5-core, as in the publisher's benchmark",
        note="Read from the publisher's 5-core file of ratings, which holds the first of a "
        "user's reviews of a product; the item is `parent_asin`.",
        licence=LICENCE,
        citation="Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley. Bridging Language and Items "
        "for Retrieval and Recommendation. arXiv 2403.03952, 2024.",
        time_unit="milliseconds",
    )


SOURCES = (
    _amazon2014("beauty", "Beauty", 44),
    _amazon2014("electronics", "Electronics", 496),
    *(_amazon2014(f"amazon2014:{category}", category) for category in CATEGORIES_2014),
    *map(_amazon2018, CATEGORIES_2018),
    *map(_amazon2023, CATEGORIES_2023),
)
