"""Live sessions: what is kept of a user between clicks, as arrays and as bytes, and the program that takes clicks in.

A session's memory is one vector. Of a model with a state (a "stream"): the user vector at the last
click, then the state of every block. Of any other: the last max_len clicks. Beside it, a bit an
item says what was seen. Neither grows.

As bytes: MAGIC, the header's length (4 bytes, little-endian), a JSON header, memory and bits
compressed by zlib, 16 bytes of blake2b over all that. The check finds damage; it is no signature:
restore what you stored yourself.
"""

import contextlib
import functools
import hashlib
import json
import threading
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from data_prep.settings import UserError
from ttt4rec_jax.serving import top_k

MAGIC = b"TTT4REC\n"
VERSION = 1
CHECK_BYTES = 16
PIECES = 1, 8, 64  # clicks of a session that one program takes in: few shapes, few compilations


class Session:
    """One user's clicks so far. Made by Recommender.open_session; any thread may call.

    clicks: how many there were. is_constant_cost: whether the next costs the same however many
    there were; if not, a recommendation reads the last max_len clicks anew.
    """

    def __init__(self, recommender, memory: np.ndarray, seen: np.ndarray, clicks: int):
        self._recommender = recommender
        self.memory = memory
        self.seen = seen
        self.clicks = clicks
        self.lock = threading.RLock()

    @property
    def is_constant_cost(self) -> bool:
        return self._recommender.is_constant_cost

    def observe(self, item, unknown: str = "error") -> None:
        """Takes in a click on an item, by its id. Raises UserError if the data does not have it; "skip": leaves it out."""
        self._recommender.observe_many([self], [[item]], unknown=unknown)

    def recommend(self, k: int = 10, **filters):
        """The k best items now: Recommender.recommend_many of this session."""
        return self._recommender.recommend_many([self], k, **filters)[0]

    def to_bytes(self) -> bytes:
        """All there is to know, for Recommender.session_from_bytes of the same model."""
        with self.lock:
            return to_bytes(self._recommender.fingerprint, self.memory, self.seen, self.clicks)


@contextlib.contextmanager
def locked(recommender, sessions: Sequence[Session]):
    """Holds the locks of a recommender's sessions, taken in one order everywhere, so that no two callers wait for each other.

    Raises UserError if they are of another one, or one stands there twice.
    """
    if any(session._recommender is not recommender for session in sessions):
        raise UserError(
            "sessions: one is of another Recommender; move it by to_bytes and session_from_bytes"
        )
    if len({id(session) for session in sessions}) < len(sessions):
        raise UserError("sessions: one stands there twice; give its clicks as one list")
    with contextlib.ExitStack() as stack:
        for session in sorted(sessions, key=id):
            stack.enter_context(session.lock)
        yield


class Stream:
    """The programs of a model with a state: clicks [B, T] and memories [B, S] -> memories, and with `k` the best items."""

    def __init__(self, graphdef, params):
        model = nnx.merge(graphdef, params)
        state, unravel = ravel_pytree(model.initial_state())
        D = self.dim = model.norm.scale.shape[-1]
        self.start = np.concatenate([np.zeros(D, np.float32), np.asarray(state)])

        def advance(params, click_BxT, length_B, memory_BxS):
            model = nnx.merge(graphdef, params)

            def one(click_T, length, memory_S):
                user_1xD, state = model.advance(click_T, length, unravel(memory_S[D:]))
                return jnp.where(
                    length > 0, jnp.concatenate([user_1xD[0], ravel_pytree(state)[0]]), memory_S
                )

            return jax.vmap(one)(click_BxT, length_B, memory_BxS)

        def advance_and_top(params, click_BxT, length_B, memory_BxS, item_NxCxD, blocked_BxW, k):
            memory_BxS = advance(params, click_BxT, length_B, memory_BxS)
            return memory_BxS, top_k.of_users(memory_BxS[:, None, :D], item_NxCxD, blocked_BxW, k)

        self._params = params
        self.advance = jax.jit(advance)
        self.advance_and_top = jax.jit(advance_and_top, static_argnames="k")

    def __call__(
        self, memory_BxS, found: list[np.ndarray], item_NxCxD=None, blocked_BxW=None, k: int = 0
    ):
        """(memories after each row's clicks, with k the (scores, items) [B, k] of the best, else None)."""
        longest = max(len(items) for items in found)
        start = 0
        while True:
            piece = min((size for size in PIECES if size >= longest - start), default=PIECES[-1])
            clicks = top_k.padded([items[start : start + piece] for items in found], piece)
            start += piece
            if start >= longest and k:
                return self.advance_and_top(
                    self._params, *clicks, memory_BxS, item_NxCxD, blocked_BxW, k
                )
            memory_BxS = self.advance(self._params, *clicks, memory_BxS)
            if start >= longest:
                return memory_BxS, None


# A session as bytes


def to_bytes(fingerprint: str, memory: np.ndarray, seen: np.ndarray, clicks: int) -> bytes:
    """See the module's docstring."""
    memory = memory.astype(memory.dtype.newbyteorder("<"), copy=False)
    header = {
        "version": VERSION,
        "model": fingerprint,
        "clicks": clicks,
        "memory": [memory.dtype.str, len(memory)],
        "seen": len(seen),
    }
    text = json.dumps(header).encode()
    blob = (
        MAGIC
        + len(text).to_bytes(4, "little")
        + text
        + zlib.compress(memory.tobytes() + seen.tobytes())
    )
    return blob + check_bytes(blob)


def from_bytes(
    blob: bytes, fingerprint: str, like: np.ndarray, longest: int, bits: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(memory, seen, clicks) of a session's bytes.

    like: a memory of the model; longest: how long it may be; bits: how long `seen` is. Raises
    UserError for bytes that are damaged, of another version or of another model.
    """
    wrong = functools.partial("session bytes: {}; {}".format)
    again = "open a new session and observe the user's clicks"
    if not isinstance(blob, (bytes, bytearray, memoryview)):
        raise UserError(
            wrong(f"found a {type(blob).__name__}", "expected what Session.to_bytes gave")
        )
    blob = bytes(blob)
    start = len(MAGIC) + 4
    if not blob.startswith(MAGIC):
        raise UserError(
            wrong(f"begin with {blob[:8]!r}, not {MAGIC!r}", "expected what Session.to_bytes gave")
        )
    if len(blob) < start + CHECK_BYTES or check_bytes(blob[:-CHECK_BYTES]) != blob[-CHECK_BYTES:]:
        raise UserError(
            wrong(f"{len(blob)} of them, damaged or cut off (their check fails)", again)
        )
    stop = start + int.from_bytes(blob[len(MAGIC) : start], "little")
    try:
        header = json.loads(blob[start:stop])
        version = header["version"]
        model = header["model"]
        clicks = header["clicks"]
        if version != VERSION:
            raise UserError(wrong(f"of version {version!r}, expected {VERSION}", again))
        if model != fingerprint:
            raise UserError(
                wrong(
                    f"of model {model}, this one is {fingerprint}",
                    f"{again}, or load the run that it is of",
                )
            )
        (kind, size) = header["memory"]
        seen_size = header["seen"]
        if (
            kind != like.dtype.newbyteorder("<").str
            or not 0 <= size <= longest
            or seen_size != bits
            or clicks < 0
        ):
            raise ValueError(f"sizes {header}")
        # no more than expected is unpacked, whatever the bytes claim
        length = size * like.dtype.itemsize + seen_size
        content = zlib.decompressobj().decompress(blob[stop:-CHECK_BYTES], length + 1)
        if len(content) != length:
            raise ValueError("another length")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise UserError(wrong(f"not as Session.to_bytes writes them ({error})", again)) from error
    memory = np.frombuffer(content, kind, size).astype(like.dtype)
    return (
        memory,
        np.frombuffer(content, np.uint8, seen_size, size * like.dtype.itemsize).copy(),
        clicks,
    )


def check_bytes(blob: bytes) -> bytes:
    """blake2b of 16 bytes."""
    return hashlib.blake2b(blob, digest_size=CHECK_BYTES).digest()
