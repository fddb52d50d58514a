"""Sessions in Redis or Valkey, which several replicas of the service can share.

Each write is one script, which Redis executes as a whole: it compares the number of clicks that the
writer knows with the stored one, so that of two replicas only one can add the next click. A batch
is one pipeline. What survives depends on the server's settings, which are read at the start:
with appendfsync=always, Redis answers after it has forced its log to disk.

Keys, under the prefix of this format; the session is in braces, so that its keys share a slot:
    t:s:{ID}        hash: "n" the number of clicks; "k:KEY" the clicks after a request with that key
    t:c:{ID}        list of the kept requests, each JSON [first, ids, key, times]; earlier versions
                    kept no times
    t:m:{ID}        hash of saved states: "VERSION:clicks", "VERSION:state", "VERSION:seen"
All expire with the session. t:open is a sorted set of the sessions by the time of their expiry.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from data_prep.settings import UserError
from ttt4rec_jax.service.store import Append, Changes, Clicks, Saved, StoreError

PREFIX = "ttt4rec:1:"
TIMEOUT_S = 5.0
# A write whose answer was lost may have happened: only the client can tell, by its key.
NO_RETRY = Retry(NoBackoff(), 0)
# KEYS: session, clicks, open. ARGV: id, expected number, number after, request, key, ttl, expires
APPEND = """
local n = redis.call('HGET', KEYS[1], 'n')
if n ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'n', ARGV[3])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'k:' .. ARGV[5], ARGV[3]) end
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
redis.call('ZADD', KEYS[3], ARGV[7], ARGV[1])
return 1
"""
# KEYS: session, clicks, states. ARGV: version, clicks, state, seen, first click to keep
SAVE = """
local ttl = redis.call('TTL', KEYS[1])
if ttl < 1 then return 0 end
local v = ARGV[1]
redis.call('HSET', KEYS[3], v .. ':clicks', ARGV[2], v .. ':state', ARGV[3], v .. ':seen', ARGV[4])
redis.call('EXPIRE', KEYS[3], ttl)
while true do
    local oldest = redis.call('LINDEX', KEYS[2], 0)
    if not oldest then return 1 end
    local request = cjson.decode(oldest)
    if request[1] + #request[2] > tonumber(ARGV[5]) then return 1 end
    redis.call('LPOP', KEYS[2])
    if request[3] ~= '' then redis.call('HDEL', KEYS[1], 'k:' .. request[3]) end
end
"""


class RedisStore:
    """Sessions in a server of Redis or Valkey."""

    has_other_writers = True

    def __init__(
        self, url: str, ttl_s: int, keep_clicks: int, now: Callable[[], float] = time.time
    ):
        """Connect. Raises UserError.

        ttl_s: seconds after a session's last click at which it expires.
        """
        self.ttl_s = ttl_s
        self.keep_clicks = keep_clicks
        self.now = now
        try:
            self.client: Any = redis.Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=NO_RETRY
            )
            self.client.ping()
            self.durability = _durability(self.client)
        except (redis.RedisError, ValueError, OSError) as error:
            raise UserError(
                f"--sessions: Redis cannot be used ({error}); "
                "start it, or correct the address redis://HOST:PORT/DB"
            ) from error
        self.append = self.client.register_script(APPEND)
        self.save = self.client.register_script(SAVE)

    def counts(self, sessions: list[str]) -> dict[str, int]:
        """Return the number of clicks of each session that exists and has not expired."""
        with _reported(), self.client.pipeline(transaction=False) as pipe:
            for session in sessions:
                pipe.hget(_session(session), "n")
            found = pipe.execute()
        return {s: int(n) for s, n in zip(sessions, found, strict=True) if n is not None}

    def outcomes(self, keys: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return the number of clicks after the request of each known (session, key)."""
        with _reported(), self.client.pipeline(transaction=False) as pipe:
            for session, key in keys:
                pipe.hget(_session(session), f"k:{key}")
            found = pipe.execute()
        return {pair: int(n) for pair, n in zip(keys, found, strict=True) if n is not None}

    def clicks(self, session: str, start: int, stop: int) -> list[Clicks]:
        """Return the kept requests that have any of the clicks start..stop-1, in order."""
        with _reported():
            kept = [_parsed(line) for line in self._kept(session, stop - start)]
            if not kept or kept[0].first > start:
                kept = [_parsed(line) for line in self._kept(session, 0)]
        return [c for c in kept if c.first + len(c.ids) > start and c.first < stop]

    def saved(self, session: str, version: str) -> Saved | None:
        """Return the last saved state of a version of a model."""
        with _reported():
            names = [f"{version}:{name}" for name in Saved._fields]
            clicks, state, seen = self.client.hmget(_states(session), names)
        return None if clicks is None else Saved(int(clicks), state, seen)

    def commit(self, changes: Changes) -> set[str]:
        """Write changes; return the sessions that another process has changed."""
        expires = int(self.now()) + self.ttl_s
        with _reported(), self.client.pipeline(transaction=False) as pipe:
            for session in changes.creates:
                pipe.hset(_session(session), "n", 0)
                pipe.expire(_session(session), self.ttl_s)
                pipe.zadd(f"{PREFIX}open", {session: expires})
            for (session, version), saved in changes.saved.items():
                self._save(pipe, session, version, saved)
            for session in changes.deletes:
                self._delete(pipe, session)
            for append in changes.appends:
                self._append(pipe, append, expires)
            done = pipe.execute()
        results = done[len(done) - len(changes.appends) :]
        return {a.session for a, ok in zip(changes.appends, results, strict=True) if not ok}

    def purge(self) -> int:
        """Forget expired sessions, and return the number of all that remain."""
        with _reported():
            self.client.zremrangebyscore(f"{PREFIX}open", "-inf", int(self.now()))
            return self.client.zcard(f"{PREFIX}open")

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _kept(self, session: str, last: int) -> list[bytes]:
        """Return the last requests of a session; all for 0."""
        return self.client.lrange(_clicks(session), -last if last else 0, -1)

    def _append(self, pipe: Any, append: Append, expires: int) -> None:
        session, (first, ids, times), key = append
        request = json.dumps([first, ids, key, times])
        self.append(
            keys=[_session(session), _clicks(session), f"{PREFIX}open"],
            args=[session, first, first + len(ids), request, key, self.ttl_s, expires],
            client=pipe,
        )

    def _save(self, pipe: Any, session: str, version: str, saved: Saved) -> None:
        self.save(
            keys=[_session(session), _clicks(session), _states(session)],
            args=[version, *saved, saved.clicks - self.keep_clicks],
            client=pipe,
        )

    def _delete(self, pipe: Any, session: str) -> None:
        pipe.delete(_session(session), _clicks(session), _states(session))
        pipe.zrem(f"{PREFIX}open", session)


def _parsed(line: bytes) -> Clicks:
    first, ids, _, *times = json.loads(line)
    return Clicks(first, ids, *times)


def _session(session: str) -> str:
    return f"{PREFIX}s:{{{session}}}"


def _clicks(session: str) -> str:
    return f"{PREFIX}c:{{{session}}}"


def _states(session: str) -> str:
    return f"{PREFIX}m:{{{session}}}"


def _durability(client: Any) -> str:
    """Return what an acknowledged click survives, by the server's settings."""
    try:
        settings = client.config_get("append*")
    except redis.RedisError:
        return "Redis does not tell its settings: what a click survives is up to them."
    if settings.get("appendonly") != "yes":
        return (
            "A click is acknowledged when Redis has it in memory: it does not survive the end of "
            "Redis beyond its last snapshot. Set appendonly yes and appendfsync always."
        )
    if settings.get("appendfsync") != "always":
        return (
            "A click is acknowledged when it is in Redis's log: it survives kill -9, and power "
            "loss only after about a second. Set appendfsync always for more."
        )
    return "A click is acknowledged when Redis has it on disk: it survives kill -9 and power loss."


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise StoreError(f"Redis: {str(error) or type(error).__name__}") from error
