"""Download a known data set's archive: resumable, verified, and renamed only when complete."""

import contextlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_prep import atomic
from data_prep.catalogue.entry import Source
from data_prep.files import file_digest
from data_prep.settings import UserError

logger = logging.getLogger(__name__)
CHUNK = 1 << 18
TIMEOUT_S = 30


def fetch(source: Source, data_dir: Path) -> Path:
    """Download source.url to data_dir/source.file and return that path.

    An interrupted transfer is resumed where its .part file ends. Raises UserError if the network
    fails, or if the checksum is not the official one; then the file is removed.
    """
    target = data_dir / source.file
    part = target.with_name(f"{target.name}{atomic.PART}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--data_dir: cannot create the folder {data_dir} ({error.strerror}); name another"
        ) from error
    with _locked(target.with_name(f".{target.name}.lock")):
        if target.exists():  # another process has just downloaded it
            return target
        size = f" (about {source.megabytes} MB)" if source.megabytes else ""
        logger.info("downloading %s%s to %s", source.url, size, data_dir)
        try:
            _transfer(source.url, part)
        # URLError and time-outs are OSErrors
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"cannot download {source.url} ({reason}); without a network, put the file "
                f"{source.file} into {data_dir.absolute()}, or use --dataset=synthetic, "
                "which needs none"
            ) from error
        if source.md5 and (md5 := file_digest(part, "md5")) != source.md5:
            part.unlink()
            raise UserError(
                f"{source.url}: the download's md5 is {md5}, expected {source.md5}; it was "
                f"removed; try again, or put a copy that you trust at {target}"
            )
        atomic.move(part, target)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock, so that no two processes write to one .part file."""
    with open(path, "a", opener=atomic.no_follow) as file:
        atomic.lock(file, wait=True)  # without locks, only simultaneous downloads would collide
        yield


def _transfer(url: str, part: Path) -> None:
    """Append the missing part of `url` to `part`. Raises OSError if the file is incomplete then."""
    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "ttt4rec_jax"} | ({"Range": f"bytes={done}-"} if done else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        if error.headers.get("Content-Range", "").removeprefix("bytes */") == str(done):
            return  # nothing is missing
        part.unlink()  # longer than the file on the server, so it is the start of another one
        return _transfer(url, part)
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise OSError(
                f"the server answered with the range {response.headers.get('Content-Range')!r}"
            )
        start = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(part, "ab" if resumed else "wb", opener=atomic.no_follow) as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
            if total is not None and file.tell() != total:
                raise OSError(
                    f"the connection broke off after {file.tell()} of {total} bytes; "
                    "run again to resume"
                )


def check_local(source: Source, path: Path) -> None:
    """Warn if a local archive is not the official one; it is used nevertheless."""
    if not source.md5 or path.name != Path(source.file).name:
        return
    md5 = file_digest(path, "md5")
    if md5 != source.md5:
        logger.warning(
            "%s: md5 is %s, that of the official archive is %s; the file is used as is",
            path,
            md5,
            source.md5,
        )
