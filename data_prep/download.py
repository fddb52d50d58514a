"""Fetches an archive of the catalogue: resumable, checked, in place only when whole."""

import contextlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_prep.files import file_digest
from data_prep.settings import UserError
from data_prep.sources import Source

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)
CHUNK = 1 << 18
TIMEOUT_S = 30


def fetch(source: Source, data_dir: Path) -> Path:
    """Downloads source.url to data_dir/source.file and returns that path.

    A transfer that broke off is taken up where its .part file ends. Raises UserError where the
    network fails, with what to do without one, and where the checksum is not the official one; the
    file is removed
    then.
    """
    target = data_dir / source.file
    part = target.with_name(f"{target.name}.part")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--data_dir: cannot make the folder {data_dir} ({error.strerror}); name another"
        ) from error
    with _alone(target.with_name(f".{target.name}.lock")):
        if target.exists():  # another process has just fetched it
            return target
        logger.info("downloading %s (about %d MB) to %s", source.url, source.megabytes, data_dir)
        try:
            _transfer(source.url, part)
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
        ) as error:  # URLError and time-outs are OSErrors
            raise UserError(
                f"cannot download {source.url} ({getattr(error, 'reason', None) or error}); without a network, "
                f"put the file {source.file} into {data_dir.absolute()}, or use --dataset=synthetic, which needs none"
            ) from error
        if source.md5 and (found := file_digest(part, "md5")) != source.md5:
            part.unlink()
            raise UserError(
                f"{source.url}: the download's md5 is {found}, expected {source.md5}; it was removed, try again, "
                f"or put a copy you trust at {target}"
            )
        os.replace(part, target)
    return target


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits until no other process is inside, so that two downloads do not write to one .part file."""
    with open(lock, "w") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _transfer(url: str, part: Path) -> None:
    """Appends to `part` what it lacks of `url`. Raises OSError if it then is not whole."""
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
        part.unlink()  # longer than what is there now: another file's beginning
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
            open(part, "ab" if resumed else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
            if total is not None and file.tell() != total:
                raise OSError(
                    f"the connection broke off after {file.tell()} of {total} bytes; run again to resume"
                )


def check_local(source: Source, path: Path) -> None:
    """Warns if a local archive is not the official one. It is used as it is."""
    if (
        source.md5
        and path.name == source.file
        and (found := file_digest(path, "md5")) != source.md5
    ):
        logger.warning(
            "%s: md5 is %s, the official archive's is %s; used as it is", path, found, source.md5
        )
