"""Small files in the exact forms of the catalogue's data sets: names, headers, quotes, times.

Each function writes the files of a data set into a data_dir. It is given clicks (user, item, time),
in the order of the file, with users and items from 0 and times in seconds, a day or more apart for
each user; it returns how the data set writes a user and an item.
"""

import gzip
import io
import json
import random
import tarfile
import zipfile
from datetime import UTC, datetime

USERS = 14
CLICKED = 12  # of as many items as there are users
START = 1_520_000_000
DAY = 86_400


def clicks(seed=0):
    """Return clicks in an order that is not that of time, and a user and an item that are rare."""
    draw = random.Random(seed)
    found = []
    for user in range(USERS):
        items = [(user + step) % USERS for step in range(CLICKED)]
        draw.shuffle(items)
        found += [(user, item, START + DAY * n + 61 * user + n) for n, item in enumerate(items)]
    found.append((USERS, 0, START))
    found.append((0, USERS, START + 100 * DAY))
    draw.shuffle(found)
    return found


def moment(time, form="%Y-%m-%d %H:%M:%S"):
    return datetime.fromtimestamp(time, UTC).strftime(form)


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def write_gz(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def lines(rows, end="\n"):
    return "".join(row + end for row in rows)


def ml1m(root, rows):
    ratings = lines(f"{u + 1}::{i + 1}::5::{t}" for u, i, t in rows)
    movies = lines(f"{i + 1}::Film é {i} (1995)::Animation|Children's" for i in range(USERS + 1))
    write_zip(
        root / "ml-1m.zip",
        {
            "ml-1m/": "",
            "ml-1m/movies.dat": movies.encode("latin-1"),
            "ml-1m/ratings.dat": ratings,
            "ml-1m/users.dat": "1::F::1::10::48067\n",
            "ml-1m/README": "SUMMARY\n",
        },
    )
    return lambda u: u + 1, lambda i: i + 1


def ml100k(root, rows):
    ratings = lines(f"{u + 1}\t{i + 1}\t3\t{t}" for u, i, t in rows)
    movies = lines(f"{i + 1}|Film é {i} (1995)|01-Jan-1995||http://x|0|1" for i in range(USERS + 1))
    members = {"ml-100k/u.data": ratings, "ml-100k/u.item": movies.encode("latin-1")}
    write_zip(root / "ml-100k.zip", members | {"ml-100k/u1.base": ratings[:80]})
    return lambda u: u + 1, lambda i: i + 1


def ml10m(root, rows):
    ratings = lines(f"{u + 1}::{i + 1}::3.5::{t}" for u, i, t in rows)
    movies = lines(f"{i + 1}::Film é {i} (1995)::Comedy" for i in range(USERS + 1))
    members = {"ml-10M100K/movies.dat": movies, "ml-10M100K/ratings.dat": ratings}
    write_zip(root / "ml-10m.zip", members)
    return lambda u: u + 1, lambda i: i + 1


def later_movielens(name, end="\n"):
    def make(root, rows):
        ratings = [f"{u + 1},{i + 1},4.0,{t}" for u, i, t in rows]
        movies = [f'{i + 1},"Film é {i}, The (1995)",Comedy|Drama' for i in range(USERS + 1)]
        members = {
            f"{name}/links.csv": "movieId,imdbId,tmdbId\r\n1,0114709,862\r\n",
            f"{name}/movies.csv": lines(["movieId,title,genres", *movies], end),
            f"{name}/ratings.csv": lines(["userId,movieId,rating,timestamp", *ratings], end),
        }
        write_zip(root / f"{name}.zip", members)
        return lambda u: u + 1, lambda i: i + 1

    return make


def asin(item):
    return f"B00{item:07d}"


def reviewer(user):
    return f"A{user:03d}SUAM1J3GNN3B"


def amazon2014(category):
    def make(root, rows):
        objects = (
            {
                "reviewerID": reviewer(u),
                "asin": asin(i),
                "reviewerName": 'J. "McD" é',
                "helpful": [2, 3],
                "reviewText": "A line,\nand another.",
                "overall": 5.0,
                "summary": "Heavenly",
                "unixReviewTime": t // DAY * DAY,
                "reviewTime": moment(t, "%m %d, %Y"),
            }
            for u, i, t in rows
        )
        write_gz(root / f"reviews_{category}_5.json.gz", lines(map(json.dumps, objects)))
        return reviewer, asin

    return make


def amazon2014_ratings(root, rows):
    text = lines(f"{reviewer(u)},{asin(i)},5.0,{t // DAY * DAY}" for u, i, t in rows)
    write(root / "ratings_Toys_and_Games.csv", text)
    return reviewer, asin


def amazon2018(root, rows):
    objects = (
        {
            "overall": 5.0,
            "verified": True,
            "reviewTime": moment(t, "%m %d, %Y"),
            "reviewerID": reviewer(u),
            "asin": asin(i),
            "style": {"Format:": " Kindle Edition"},
            "reviewerName": "é",
            "reviewText": "",
            "summary": "Five Stars",
            "unixReviewTime": t // DAY * DAY,
        }
        for u, i, t in rows
    )
    write_gz(root / "amazon2018" / "Prime_Pantry_5.json.gz", lines(map(json.dumps, objects)))
    return reviewer, asin


def amazon2018_ratings(root, rows):
    text = lines(f"{asin(i)},{reviewer(u)},5.0,{t // DAY * DAY}" for u, i, t in rows)
    write(root / "amazon2018" / "Prime_Pantry.csv", text)
    return reviewer, asin


def amazon2023(root, rows):
    header = "user_id,parent_asin,rating,timestamp"
    ratings = [f"AGKASBHYZPGTEPO6LWZPVJWB{u:04d},{asin(i)},3.0,{1000 * t}" for u, i, t in rows]
    write_gz(root / "amazon2023" / "Toys_and_Games.csv.gz", lines([header, *ratings]))
    return lambda u: f"AGKASBHYZPGTEPO6LWZPVJWB{u:04d}", asin


def s3rec(root, rows):
    users = range(USERS + 1)
    in_order = [[i for u, i, _ in sorted(rows, key=lambda row: row[2]) if u == v] for v in users]
    text = lines(
        " ".join(map(str, [u + 1, *(i + 1 for i in items)])) for u, items in enumerate(in_order)
    )
    write(root / "s3rec" / "Toys_and_Games.txt", text)
    return lambda u: u + 1, lambda i: i + 1


def retailrocket(root, rows):
    events = [f"{1000 * t + 117},{u},view,{i + 300},\n" for u, i, t in rows]
    for n in range(0, len(rows), 3):  # other events are not clicks
        u, i, t = rows[n]
        events[n] += f"{1000 * t + 200},{u},addtocart,{i + 300},\n"
        events[n] += f"{1000 * t + 300},{u},transaction,{i + 300},{n}\n"
    header = "timestamp,visitorid,event,itemid,transactionid\n"
    write(root / "retailrocket" / "events.csv", header + "".join(events))
    return int, lambda i: i + 300


def yoochoose(root, rows):
    text = lines(f"{u},{moment(t, '%Y-%m-%dT%H:%M:%S')}.277Z,{i + 214},S" for u, i, t in rows)
    write(root / "yoochoose-clicks.dat", text)
    return int, lambda i: i + 214


def diginetica(root, rows):
    """Clicks of even users lie on one day, where only the milliseconds tell their order."""
    views = []
    for u, i, t in rows:
        day = moment(START if u % 2 == 0 else t, "%Y-%m-%d")
        user = "NA" if i % 2 else u + 900
        views.append(f"{u};{user};{i + 81};{(t - START) // 10};{day}")
    header = "sessionId;userId;itemId;timeframe;eventdate"
    write_zip(root / "train-item-views.csv.zip", {"train-item-views.csv": lines([header, *views])})
    return int, lambda i: i + 81


def hm(root, rows):
    header = "t_dat,customer_id,article_id,price,sales_channel_id"
    bought = [
        f"{moment(t, '%Y-%m-%d')},{u:064x},{i + 108_775_015:010d},0.0508305084745762,2"
        for u, i, t in rows
    ]
    write(root / "hm" / "transactions_train.csv", lines([header, *bought]))
    return lambda u: f"{u:064x}", lambda i: f"{i + 108_775_015:010d}"


def otto(root, rows):
    sessions = []
    for user in range(USERS + 1):
        events = [
            {"aid": i + 1_517_085, "ts": 1000 * t + 25, "type": "clicks"}
            for u, i, t in rows
            if u == user
        ]
        events.insert(1, {"aid": 7, "ts": 1000 * START, "type": "carts"})
        events.append({"aid": 7, "ts": 1000 * START, "type": "orders"})
        sessions.append({"session": user, "events": events})
    sessions.append({"session": USERS + 1, "events": []})
    text = lines(json.dumps(session, separators=(",", ":")) for session in sessions)
    write(root / "otto-recsys-train.jsonl", text)
    return int, lambda i: i + 1_517_085


def lastfm1k(root, rows):
    played = lines(
        f"user_{u + 1:06d}\t{moment(t, '%Y-%m-%dT%H:%M:%SZ')}\t"
        + (f"f1b1cf71-bd35-4e99-8624-{i:012d}" if i % 2 else "")
        + f'\t"Artist é {i}\t\tA "song" of it'
        for u, i, t in rows
    )
    path = root / "lastfm-dataset-1K.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (
            ("README.txt", "Version 1.0\n"),
            ("userid-profile.tsv", "#id\tgender\tage\tcountry\tregistered\n"),
            ("userid-timestamp-artid-artname-traid-traname.tsv", played),
        ):
            entry = tarfile.TarInfo(f"lastfm-dataset-1K/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return lambda u: f"user_{u + 1:06d}", lambda i: f'"Artist é {i}'


def mind(root, rows):
    """The first clicks of odd users are their history; the others have none."""
    behaviors = []
    in_order = sorted(rows, key=lambda row: row[2])
    for u, i, t in rows:
        own = [item for user, item, _ in in_order if user == u]
        history = own[:4] if u % 2 else []
        if i in history:
            continue
        shown = [f"N{i + 50}-1", f"N{USERS + 90}-0"]
        day = datetime.fromtimestamp(t + 700 * DAY, UTC)  # 2020, after the history
        time = f"{day.month}/{day.day}/{day.year} {day.hour % 12 or 12}:{day:%M:%S %p}"
        behaviors.append(
            f"{len(behaviors) + 1}\tU{u}\t{time}\t"
            f"{' '.join(f'N{item + 50}' for item in history)}\t{' '.join(shown)}"
        )
    news = lines(
        f'N{i + 50}\tsports\tnfl\tA "title é {i}\tAn abstract\thttps://x\t[]\t[]'
        for i in range(USERS)
    )
    members = {"behaviors.tsv": lines(behaviors), "news.tsv": news, "entity_embedding.vec": "Q1\n"}
    write_zip(root / "MINDsmall_train.zip", members)
    return lambda u: f"U{u}", lambda i: f"N{i + 50}"


def kuairec(root, rows):
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
    watched = []
    for u, i, t in rows:
        time = f"{moment(t)}.438,{moment(t, '%Y%m%d')},{t}.438"
        watched.append(f"{u},{i},13838,5000,{time},2.7676")
        watched.append(f"{u},{i + 1},1383,10867,{time},0.1273")  # no click
    text = lines([header, *watched])
    members = {"KuaiRec 2.0/data/big_matrix.csv": text, "KuaiRec 2.0/data/small_matrix.csv": header}
    write_zip(root / "KuaiRec.zip", members)
    return int, int


def steam(root, rows):
    text = lines(
        f"{{u'username': u'Chaos Syren {u}', u'hours': 0.1, u'products': 41, u'product_id': "
        f"u'{725280 + i}', u'page_order': 0, u'date': u'{moment(t, '%Y-%m-%d')}', "
        f"u'text': u\"It's \\u2665, a \\'game\\'\\n\", u'early_access': False, u'page': 1"
        + (", u'user_id': u'76561198082910585'}" if i % 2 else "}")
        for u, i, t in rows
    )
    write_gz(root / "steam_reviews.json.gz", text)
    return lambda u: f"Chaos Syren {u}", lambda i: 725280 + i


def yelp(root, rows):
    objects = (
        {
            "review_id": f"KU_O5udG6zpxOg-VcA{n:04d}",
            "user_id": f"mh_-eMZ6K5RLWhZyIS{u:04d}",
            "business_id": f"XQfwVwDr-v0ZS3_CbbE{i:03d}",
            "stars": 3.0,
            "useful": 0,
            "funny": 0,
            "cool": 0,
            "text": 'A line,\n"another" é',
            "date": moment(t),
        }
        for n, (u, i, t) in enumerate(rows)
    )
    text = lines(json.dumps(review, ensure_ascii=False) for review in objects)
    write(root / "yelp_academic_dataset_review.json", text)
    return lambda u: f"mh_-eMZ6K5RLWhZyIS{u:04d}", lambda i: f"XQfwVwDr-v0ZS3_CbbE{i:03d}"


def gowalla(root, rows):
    text = lines(
        f"{u}\t{moment(t, '%Y-%m-%dT%H:%M:%SZ')}\t30.2359091167\t-97.7951395833\t{i + 22847}"
        for u, i, t in rows
    )
    write_gz(root / "loc-gowalla_totalCheckins.txt.gz", text)
    return int, lambda i: i + 22847


def foursquare(city):
    def make(root, rows):
        text = lines(
            f"{u + 470}\t49bbd6c0f964a520f453{i:04x}\t4bf58dd8d48988d127951735\tCafé\t40.7198\t"
            f"-74.0025\t-240\t{moment(t, '%a %b %d %H:%M:%S +0000 %Y')}"
            for u, i, t in rows
        )
        member = f"dataset_tsmc2014/dataset_TSMC2014_{city}.txt"
        members = {member: text.encode("latin-1"), "dataset_tsmc2014/readme.txt": "x\n"}
        write_zip(root / "dataset_tsmc2014.zip", members)
        return lambda u: u + 470, lambda i: f"49bbd6c0f964a520f453{i:04x}"

    return make


def goodreads(name):
    def make(root, rows):
        form = "%a %b %d %H:%M:%S -0700 %Y"
        objects = (
            {
                "user_id": f"8842281e1d1347389f2ab93d6077{u:04x}",
                "book_id": str(i + 130_580),
                "review_id": "330f9c153c8d3347eb914c06b89c94da",
                "is_read": True,
                "rating": 4,
                "review_text_incomplete": "",
                "date_added": moment(t, form),
                "date_updated": moment(START - t % DAY, form),
                "read_at": "",
                "started_at": "",
            }
            for u, i, t in rows
        )
        write_gz(root / name, lines(map(json.dumps, objects)))
        return lambda u: f"8842281e1d1347389f2ab93d6077{u:04x}", lambda i: i + 130_580

    return make


def isbn(item):
    return f"03454{item:04d}X"


def bookcrossing(root, rows):
    """There are no times, so that the order is that of the file."""
    header = '"User-ID";"ISBN";"Book-Rating"'
    in_order = sorted(rows, key=lambda row: row[2])
    ratings = [f'"{u + 276725}";"{isbn(i)}";"{i % 11}"' for u, i, _ in in_order]
    ratings.insert(5, '"999999";"\\"0é 7";"0"')
    books = ['"ISBN";"Book-Title";"Book-Author"']
    books += [f'"{isbn(i)}";"Büch; {i}";"J. R."' for i in range(USERS)]
    members = {
        "BX-Book-Ratings.csv": lines([header, *ratings], "\r\n").encode("latin-1"),
        "BX-Books.csv": lines(books, "\r\n").encode("latin-1"),
        "BX-Users.csv": '"User-ID";"Location";"Age"\r\n',
    }
    write_zip(root / "BX-CSV-Dump.zip", members)
    return lambda u: u + 276725, isbn


# {name of a data set: its files}; a family is represented by one or two of its data sets
FORMS = {
    "ml1m": ml1m,
    "ml100k": ml100k,
    "ml10m": ml10m,
    "ml20m": later_movielens("ml-20m", "\r\n"),
    "ml25m": later_movielens("ml-25m"),
    "ml32m": later_movielens("ml-32m"),
    "ml-latest-small": later_movielens("ml-latest-small"),
    "beauty": amazon2014("Beauty"),
    "electronics": amazon2014("Electronics"),
    "amazon2014:Sports_and_Outdoors": amazon2014("Sports_and_Outdoors"),
    "amazon2014:Toys_and_Games": amazon2014_ratings,
    "amazon2018:Prime_Pantry": amazon2018,
    "amazon2023:Toys_and_Games": amazon2023,
    "s3rec:Toys_and_Games": s3rec,
    "retailrocket": retailrocket,
    "yoochoose": yoochoose,
    "diginetica": diginetica,
    "hm": hm,
    "otto": otto,
    "lastfm1k": lastfm1k,
    "mind:small": mind,
    "kuairec": kuairec,
    "steam": steam,
    "yelp": yelp,
    "gowalla": gowalla,
    "foursquare:NYC": foursquare("NYC"),
    "foursquare:TKY": foursquare("TKY"),
    "goodreads:poetry": goodreads("goodreads_interactions_poetry.json.gz"),
    "goodreads:all": goodreads("goodreads_interactions_dedup.json.gz"),
    "bookcrossing": bookcrossing,
}
OTHER_FORMS = {"amazon2018:Prime_Pantry": amazon2018_ratings}
TITLES = {
    "ml1m": "Film é 2 (1995)",
    "ml100k": "Film é 2 (1995)",
    "ml10m": "Film é 2 (1995)",
    "ml25m": "Film é 2, The (1995)",
    "mind:small": 'A "title é 2',
    "bookcrossing": "Büch; 2",
}
