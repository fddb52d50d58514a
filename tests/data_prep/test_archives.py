"""Archives: their layouts, damage, and bombs."""

import gzip
import json
import zipfile

import pytest
from helpers import as_lines, error_of, rows_of

from data_prep import archives, readers, sources

MOVIES = sources.CATALOGUE["ml1m"]
BEAUTY = sources.CATALOGUE["beauty"]
RATINGS = "1::10::5::100\n1::20::3::50\n2::10::1::100\n"


def archive(
    path, content, member=MOVIES.layout.member, movies=b"1::Caf\xe9: the film::Drama\n2::B::x::y\n"
):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(member, content)
        file.writestr("ml-1m/movies.dat", movies)
    return path


def test_movielens_archive(tmp_path, folder):
    path = archive(tmp_path / "ml-1m.zip", RATINGS)
    clicks = readers.read(path, MOVIES.layout, "error", folder)
    assert rows_of(clicks) == [("1", "10", 100), ("1", "20", 50), ("2", "10", 100)]
    assert readers.read_titles(path, MOVIES.titles).sort("id").rows() == [
        ("1", "Caf\u00e9: the film"),
        ("2", "B"),
    ]


@pytest.mark.parametrize(
    "bad",
    ["1:10:5:100", "1::10::5", "1::10::5::100::7", "1::10::5:100", "1:x:10::5::100", "::10::5::9"],
)
def test_bad_movielens_rows(tmp_path, folder, bad):
    path = archive(tmp_path / "ml-1m.zip", RATINGS + bad + "\n" + RATINGS)
    assert "ml-1m.zip: ml-1m/ratings.dat, line 4: " in error_of(
        readers.read, path, MOVIES.layout, "error", folder
    )
    assert len(readers.read(path, MOVIES.layout, "skip", folder).table) == 6


def test_movielens_100k(tmp_path, folder):
    source = sources.CATALOGUE["ml100k"]
    path = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ml-100k/u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
        file.writestr(
            "ml-100k/u.item",
            b"242|Kolya (1996)|24-Jan-1997||x|0\n302|L.A. Confidential (1997)|x||x|0\n",
        )
    assert rows_of(readers.read(path, source.layout, "error", folder)) == [
        ("196", "242", 881250949),
        ("186", "302", 891717742),
    ]
    assert ("302", "L.A. Confidential (1997)") in readers.read_titles(path, source.titles).rows()


def test_amazon_in_both_forms(tmp_path, folder):
    lines = [
        {
            "reviewerID": "A",
            "asin": "B",
            "helpful": [0, 1],
            "reviewText": "a\nb",
            "unixReviewTime": 5,
            "style": {"x": "y"},
        }
    ]
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert rows_of(readers.read(path, BEAUTY.layout, "error", folder)) == [("A", "B", 5)]
    path = tmp_path / "ratings.csv"
    path.write_text("A,B,5.0,7\nC,D,1.0,8\n")
    assert rows_of(readers.read(path, BEAUTY.others[0][1], "error", folder)) == [
        ("A", "B", 7),
        ("C", "D", 8),
    ]


def test_damaged_archives(tmp_path, folder):
    path = archive(tmp_path / "ml-1m.zip", RATINGS * 500)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or truncated" in error_of(readers.read, path, MOVIES.layout, "error", folder)
    start = 30 + len(MOVIES.layout.member) + 20
    path.write_bytes(whole[:start] + bytes(20) + whole[start + 20 :])
    assert "damaged or truncated" in error_of(readers.read, path, MOVIES.layout, "error", folder)
    archive(path, RATINGS, "ml-1m/rating.dat")
    message = error_of(readers.read, path, MOVIES.layout, "error", folder)
    assert "has no member 'ml-1m/ratings.dat' (did you mean 'ml-1m/rating.dat'?)" in message
    archive(path, RATINGS, "é.dat")  # a name in UTF-8, whose first byte is changed
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xae\xae"))
    for read, *more in (
        (readers.read, MOVIES.layout, "error", folder),
        (readers.read_titles, MOVIES.titles),
    ):
        assert "damaged or truncated" in error_of(read, path, *more)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(zipfile.ZipInfo(""), RATINGS)
    assert "holds 0 files (none)" in error_of(archives.only_member, path)
    assert "has no member" in error_of(readers.read, path, MOVIES.layout, "error", folder)
    path.write_bytes(b"")
    assert "is empty" in error_of(readers.read, path, MOVIES.layout, "error", folder)


def test_zip_bombs_are_refused_and_nothing_leaves_the_folder(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(archives, "SMALL_BYTES", 1000)
    path = archive(tmp_path / "ml-1m.zip", "1::1::1::1\n" * 100_000)
    assert "archive bomb" in error_of(readers.read, path, MOVIES.layout, "error", folder)
    assert not list(folder.iterdir())
    target = archives.spool(
        archive(tmp_path / "x.zip", "x", "../../evil"), "../../evil", folder / "x"
    )
    assert target.parent == folder


def test_gzip_bombs_are_refused(own, monkeypatch):
    bomb = gzip.compress(b"user,item,time\n1,2," + b"0" * 1_000_000 + b"\n")
    monkeypatch.setattr(archives, "SMALL_BYTES", 100_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 50)
    assert "it looks like a gzip bomb" in error_of(own, "x.csv.gz", bomb)
    lines = as_lines(
        ",", ("user", "item", "time"), [(u, i, u * i) for u in range(200) for i in range(200)]
    )
    assert len(rows_of(own("y.csv.gz", gzip.compress(lines.encode())))) == 40_000
