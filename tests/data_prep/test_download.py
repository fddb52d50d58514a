"""Downloads from a local server: whole, resumed, refused."""

import dataclasses
import hashlib
import http.server
import re
import threading

import pytest

from data_prep import download, sources
from data_prep.prepare import prepare
from data_prep.settings import DataConfig, UserError

CONTENT = bytes(range(256)) * 4000


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, up to `limit` bytes, with Range requests if `ranges`.

    asked: the Range header of each request.
    """

    content = CONTENT
    limit = 0
    ranges = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        size = len(server.content)
        if self.path == "/none":
            return self.send_error(404)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.limit or size])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def source(server):
    url = f"http://127.0.0.1:{server.server_port}/data.zip"
    return sources.Source(
        name="x", file="data.zip", url=url, md5=hashlib.md5(CONTENT).hexdigest(), megabytes=1
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_download_is_put_in_place_whole(source, server, tmp_path):
    path = download.fetch(source, tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["data.zip"]
    assert server.asked == [None]


@pytest.mark.parametrize("md5", ["official", ""])
def test_a_transfer_that_broke_off_is_resumed(source, server, tmp_path, md5):
    source = dataclasses.replace(source, md5=source.md5 if md5 else "")
    server.limit = 300_000
    with pytest.raises(
        UserError, match=r"broke off after 300000 of 1024000 bytes; run again to resume"
    ):
        download.fetch(source, tmp_path)
    assert names(tmp_path) == ["data.zip.part"]
    server.limit = 0
    assert download.fetch(source, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]
    assert names(tmp_path) == ["data.zip"]


def test_a_server_without_ranges_begins_again(source, server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert download.fetch(source, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_already_whole_or_too_long(source, tmp_path, part):
    (tmp_path / "data.zip.part").write_bytes(part)
    assert download.fetch(source, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_the_file_removed(source, server, tmp_path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(UserError) as caught:
        download.fetch(source, tmp_path)
    assert f"expected {source.md5}; it was removed" in str(caught.value)
    assert names(tmp_path) == []
    server.content = CONTENT
    assert download.fetch(source, tmp_path).read_bytes() == CONTENT


def test_without_a_network_the_error_says_what_to_do(source, server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as caught:
        download.fetch(source, tmp_path)
    for part in (
        source.url,
        "put the file data.zip into",
        str(tmp_path),
        "--dataset=synthetic, which needs none",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_page_is_an_error_of_the_same_kind(source, server, tmp_path):
    source = dataclasses.replace(source, url=source.url.replace("data.zip", "none"))
    with pytest.raises(
        UserError,
        match=r"cannot download .*/none \(Not Found\); without a network, put the file data.zip",
    ):
        download.fetch(source, tmp_path)
    assert names(tmp_path) == []


def test_prepare_downloads_what_is_missing_and_only_that(server, tmp_path, monkeypatch):
    rows = [(u, (u + k) % 9, k) for u in range(9) for k in range(6)]
    server.content = "".join(
        f'{{"reviewerID": "{u}", "asin": "{i}", "unixReviewTime": {t}}}\n' for u, i, t in rows
    ).encode()
    entry = dataclasses.replace(
        sources.CATALOGUE["beauty"], url=f"http://127.0.0.1:{server.server_port}/x"
    )
    monkeypatch.setitem(sources.CATALOGUE, "beauty", entry)
    config = DataConfig(dataset="beauty", eval_negatives=3)
    folder = prepare(config, data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    assert names(tmp_path / "data") == ["reviews_Beauty_5.json.gz"]
    assert prepare(config, data_dir=tmp_path / "data", cache_dir=tmp_path / "cache") == folder
    assert server.asked == [None]


def test_a_file_in_a_folder_of_its_own(server, source, tmp_path):
    source = dataclasses.replace(source, file="amazon2018/data.zip")
    assert download.fetch(source, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["amazon2018"] and names(tmp_path / "amazon2018") == ["data.zip"]


def test_a_folder_that_cannot_be_made(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--data_dir: cannot create the folder"):
        download.fetch(source, tmp_path / "file" / "x")
