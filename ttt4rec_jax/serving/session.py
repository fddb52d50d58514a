"""Live sessions: the data stored for a user between clicks, in memory and as bytes.

A session consists of a state (engine.py), a bit mask over the items that the user has seen, and the
number of clicks. Its size does not depend on the number of clicks.

The bytes of a session are MAGIC, the length of the header (4 bytes, little-endian), a JSON header,
state and mask compressed by zlib, and a BLAKE2b checksum of 16 bytes over all of these. The
checksum detects damage; it is not a signature, so restore only bytes that you have stored yourself.
The header calls the state "memory".
"""

import contextlib
import hashlib
import json
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.serving.load_export import Recommendation
from ttt4rec_jax.serving.timed import Clock

if TYPE_CHECKING:
    from ttt4rec_jax.serving.recommender import Recommender

MAGIC = b"TTT4REC\n"
VERSION = 1
CHECK_BYTES = 16
START_AGAIN = "open a new session and observe the user's clicks"


class Session:
    """The clicks of one user so far, opened by Recommender.open_session. Any thread may call it.

    Calls take effect one after the other, each as a whole and none lost; which of several threads
    comes first is not defined.

    clicks: their number; state: the model's state after them; seen: a bit mask over the items that
    were clicked; clock: what a model with --time needs of their times.
    """

    def __init__(
        self,
        recommender: "Recommender",
        state: np.ndarray,
        seen: np.ndarray,
        clicks: int,
        clock: Clock = Clock(),
    ):
        self.recommender = recommender
        self.state = state
        self.seen = seen
        self.clicks = clicks
        self.clock = clock
        self.lock = threading.RLock()

    @property
    def is_constant_cost(self) -> bool:
        """Whether the cost of a click does not depend on the number of earlier clicks.

        Otherwise each recommendation reads the last max_len clicks again.
        """
        return self.recommender.is_constant_cost

    def observe(self, item: int | str, unknown: str = "error", time: Any = None) -> None:
        """Add a click on the item with this id; time: its time, for a model with --time.

        Raise UserError for an id that is not in the data; with unknown="skip", ignore it.
        """
        times = None if time is None else [[time]]
        self.recommender.observe_many([self], [[item]], unknown=unknown, times=times)

    def recommend(self, k: int = 10, **filters: Any) -> Recommendation:
        """Return the k best items now, as Recommender.recommend_many does."""
        return self.recommender.recommend_many([self], k, **filters)[0]

    def observe_and_recommend(
        self,
        item: int | str,
        k: int = 10,
        unknown: str = "error",
        time: Any = None,
        at: Any = None,
        **filters: Any,
    ) -> Recommendation:
        """Add a click and return the k best items after it, in one call of the device.

        That takes less time than `observe` and `recommend`, whose arguments it has.
        """
        times = None if time is None else [[time]]
        lists = self.recommender.observe_many(
            [self], [[item]], k, unknown=unknown, times=times, at=at, **filters
        )
        return lists[0]  # type: ignore[index]

    def to_bytes(self) -> bytes:
        """Return the session as bytes for Recommender.session_from_bytes of the same model."""
        self.recommender.engine.check_process()
        with self.lock:
            return to_bytes(
                self.recommender.fingerprint, self.state, self.seen, self.clicks, self.clock
            )


@contextlib.contextmanager
def locked(recommender: "Recommender", sessions: Sequence[Session]) -> Iterator[None]:
    """Hold the locks of a recommender's sessions.

    They are always acquired in the same order, so that callers cannot deadlock. Raise UserError if
    a session belongs to another recommender or occurs twice.
    """
    if any(session.recommender is not recommender for session in sessions):
        raise UserError(
            "sessions: one belongs to another Recommender; "
            "move it by to_bytes and session_from_bytes"
        )
    if len({id(session) for session in sessions}) < len(sessions):
        raise UserError("sessions: duplicate session; pass all its clicks as one list")
    with contextlib.ExitStack() as stack:
        for session in sorted(sessions, key=id):
            stack.enter_context(session.lock)
        yield


def to_bytes(
    fingerprint: str, state: np.ndarray, seen: np.ndarray, clicks: int, clock: Clock = Clock()
) -> bytes:
    """Return a session as bytes, in the format described at the top of this module."""
    state = state.astype(state.dtype.newbyteorder("<"), copy=False)
    header = {
        "version": VERSION,
        "model": fingerprint,
        "clicks": clicks,
        "memory": [state.dtype.str, len(state)],
        "seen": len(seen),
    }
    if clock != Clock():
        header["clock"] = clock
    text = json.dumps(header).encode()
    content = zlib.compress(state.tobytes() + seen.tobytes())
    blob = MAGIC + len(text).to_bytes(4, "little") + text + content
    return blob + check_bytes(blob)


def from_bytes(
    blob: bytes, fingerprint: str, like: np.ndarray, max_size: int, num_bytes: int
) -> tuple[np.ndarray, np.ndarray, int, Clock]:
    """Return (state, seen, clicks, clock) of a session's bytes.

    like: a state of the model, for its type; max_size: the length of its longest state; num_bytes:
    the length of `seen`. Raise UserError for bytes that are damaged, or from another version or
    another model.
    """
    header, content = checked(blob)
    try:
        version = header["version"]
        model = header["model"]
        clicks = header["clicks"]
        if version != VERSION:
            raise wrong(f"found version {version!r}, expected {VERSION}", START_AGAIN)
        if model != fingerprint:
            raise wrong(
                f"found those of model {model}, expected {fingerprint}",
                f"{START_AGAIN}, or load the run that they belong to",
            )
        clock = Clock(*header.get("clock", ()))
        (kind, size) = header["memory"]
        seen_size = header["seen"]
        if (
            kind != like.dtype.newbyteorder("<").str
            or not 0 <= size <= max_size
            or seen_size != num_bytes
            or not all(type(x) is int for x in (clicks, size, seen_size))
            or clicks < 0
            or not (clock.last is None or type(clock.last) is float)
            or not (type(clock.pending) is int and 0 <= clock.pending < 2**31)
        ):
            raise ValueError(f"sizes {header}")
        # decompress no more than the expected size, whatever the bytes contain
        state_bytes = size * like.dtype.itemsize
        data = zlib.decompressobj().decompress(content, state_bytes + seen_size + 1)
        if len(data) != state_bytes + seen_size:
            raise ValueError("wrong length")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise wrong(f"not as Session.to_bytes writes them ({error})", START_AGAIN) from error
    state = np.frombuffer(data, kind, size).astype(like.dtype)
    seen = np.frombuffer(data, np.uint8, seen_size, state_bytes).copy()
    return state, seen, clicks, clock


def checked(blob: bytes) -> tuple[Any, bytes]:
    """Return (header, compressed content) of bytes after checking them. Raise UserError."""
    if not isinstance(blob, (bytes, bytearray, memoryview)):
        raise wrong(f"found a {type(blob).__name__}", "expected the result of Session.to_bytes")
    blob = bytes(blob)
    start = len(MAGIC) + 4
    if not blob.startswith(MAGIC):
        raise wrong(
            f"begin with {blob[:8]!r}, not {MAGIC!r}", "expected the result of Session.to_bytes"
        )
    if len(blob) < start + CHECK_BYTES or check_bytes(blob[:-CHECK_BYTES]) != blob[-CHECK_BYTES:]:
        raise wrong(f"{len(blob)} bytes, damaged or truncated (wrong checksum)", START_AGAIN)
    stop = start + int.from_bytes(blob[len(MAGIC) : start], "little")
    try:
        return json.loads(blob[start:stop]), blob[stop:-CHECK_BYTES]
    except (ValueError, RecursionError) as error:
        raise wrong(f"not as Session.to_bytes writes them ({error})", START_AGAIN) from error


def wrong(what: str, todo: str) -> UserError:
    """Return the error for bytes that are not a session of this model."""
    return UserError(f"session bytes: {what}; {todo}")


def check_bytes(blob: bytes) -> bytes:
    """Return the BLAKE2b checksum of CHECK_BYTES bytes."""
    return hashlib.blake2b(blob, digest_size=CHECK_BYTES).digest()
