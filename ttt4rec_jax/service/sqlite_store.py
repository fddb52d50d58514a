"""Sessions in a SQLite file.

Written with journal_mode=WAL and synchronous=FULL: a commit returns after its pages were forced to
disk, so that an acknowledged click survives the end of the process and the loss of power. Several
processes on one machine may share the file.
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.settings import UserError
from ttt4rec_jax.service.store import Append, Changes, Clicks, Saved, StoreError

VERSION = 2  # 1 had no times of clicks
BUSY_S = 5  # how long a process waits for another one's transaction
IDS = 500  # at most so many values in one statement
SCHEMA = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, clicks INTEGER NOT NULL, expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE clicks (
    session TEXT NOT NULL, first INTEGER NOT NULL, stop INTEGER NOT NULL, ids TEXT NOT NULL,
    key TEXT, times TEXT, PRIMARY KEY (session, first)
) WITHOUT ROWID;
CREATE UNIQUE INDEX keys ON clicks (session, key) WHERE key IS NOT NULL;
CREATE TABLE states (
    session TEXT NOT NULL, version TEXT NOT NULL, clicks INTEGER NOT NULL, state BLOB NOT NULL,
    seen BLOB NOT NULL, PRIMARY KEY (session, version)
);
"""


class SqliteStore:
    """Sessions in a SQLite file, by two connections: one that reads, one that writes."""

    durability = "A click is acknowledged when it is on disk: it survives kill -9 and power loss."
    has_other_writers = False

    def __init__(
        self,
        path: str | Path,
        ttl_s: int,
        keep_clicks: int,
        now: Callable[[], float] = time.time,
    ):
        """Open the file, or make it. Raises UserError.

        ttl_s: seconds after a session's last click at which it expires.
        """
        self.path = Path(path)
        self.ttl_s = ttl_s
        self.keep_clicks = keep_clicks
        self.now = now
        self.writing = threading.Lock()
        try:
            self.writer = _connect(self.path)
            _make(self.writer, self.path)
            self.reader = _connect(self.path)
        except sqlite3.Error as error:
            raise UserError(
                f"--sessions: {path} cannot be used ({error}); name another file, or redis://HOST"
            ) from error

    def counts(self, sessions: list[str]) -> dict[str, int]:
        """Return the number of clicks of each session that exists and has not expired."""
        with _reported():
            return self._counts(self.reader, sessions)

    def outcomes(self, keys: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return the number of clicks after the request of each known (session, key)."""
        query = "SELECT stop FROM clicks WHERE session = ? AND key = ?"
        with _reported():
            rows = {pair: self.reader.execute(query, pair).fetchone() for pair in keys}
        return {pair: row[0] for pair, row in rows.items() if row}

    def clicks(self, session: str, start: int, stop: int) -> list[Clicks]:
        """Return the kept requests that have any of the clicks start..stop-1, in order."""
        with _reported():
            rows = self.reader.execute(
                "SELECT first, ids, times FROM clicks WHERE session = ? AND stop > ? AND first < ? "
                "ORDER BY first",
                (session, start, stop),
            )
            return [
                Clicks(first, json.loads(ids), json.loads(times) if times else None)
                for first, ids, times in rows
            ]

    def saved(self, session: str, version: str) -> Saved | None:
        """Return the last saved state of a version of a model."""
        with _reported():
            row = self.reader.execute(
                "SELECT clicks, state, seen FROM states WHERE session = ? AND version = ?",
                (session, version),
            ).fetchone()
        return Saved(*row) if row else None

    def commit(self, changes: Changes) -> set[str]:
        """Write changes durably; return the sessions that another process has changed."""
        with self._transaction() as write:
            expires = int(self.now()) + self.ttl_s
            write.executemany(
                "INSERT INTO sessions VALUES (?, 0, ?)",
                [(session, expires) for session in changes.creates],
            )
            conflicts = self._append(changes.appends, expires)
            for (session, version), saved in changes.saved.items():
                self._save(session, version, saved)
            self._remove(changes.deletes)
        return conflicts

    def purge(self) -> int:
        """Remove expired sessions, and return the number of all that remain."""
        with self._transaction() as write:
            rows = write.execute("SELECT id FROM sessions WHERE expires <= ?", (int(self.now()),))
            self._remove([row[0] for row in rows])
            return write.execute("SELECT COUNT(*) FROM sessions").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        with self.writing:
            self.reader.close()
            self.writer.close()

    def _append(self, appends: list[Append], expires: int) -> set[str]:
        """Add clicks; return the sessions that are not as expected."""
        now = int(self.now())
        rows = []
        conflicts = set()
        for session, (first, ids, times), key in appends:
            stop = first + len(ids)
            updated = self.writer.execute(
                "UPDATE sessions SET clicks = ?, expires = ? "
                "WHERE id = ? AND clicks = ? AND expires > ?",
                (stop, expires, session, first, now),
            )
            if updated.rowcount:
                kept = None if times is None else json.dumps(times)
                rows.append((session, first, stop, json.dumps(ids), key or None, kept))
            else:
                conflicts.add(session)
        self.writer.executemany("INSERT INTO clicks VALUES (?, ?, ?, ?, ?, ?)", rows)
        return conflicts

    def _counts(self, connection: sqlite3.Connection, sessions: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for first in range(0, len(sessions), IDS):
            some = sessions[first : first + IDS]
            rows = connection.execute(
                f"SELECT id, clicks FROM sessions WHERE id IN ({_marks(some)}) AND expires > ?",
                (*some, int(self.now())),
            )
            found.update(rows)
        return found

    def _save(self, session: str, version: str, saved: Saved) -> None:
        """Save a state, unless the session is gone, and drop clicks that need not be kept."""
        self.writer.execute(
            "INSERT OR REPLACE INTO states SELECT ?, ?, ?, ?, ? "
            "WHERE EXISTS (SELECT 1 FROM sessions WHERE id = ?)",
            (session, version, *saved, session),
        )
        self.writer.execute(
            "DELETE FROM clicks WHERE session = ? AND stop <= ?",
            (session, saved.clicks - self.keep_clicks),
        )

    def _remove(self, sessions: list[str]) -> None:
        rows = [(session,) for session in sessions]
        for table, column in (("sessions", "id"), ("clicks", "session"), ("states", "session")):
            self.writer.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold a transaction, which is undone if the body raises."""
        with _reported(), self.writing:
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                yield self.writer
                self.writer.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.writer.execute("ROLLBACK")
                raise


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _make(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file, or bring those of an earlier version up to date.

    Raises UserError for a file of something else.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and tables == 0:
            for statement in filter(str.strip, SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif version == 1:
            connection.execute("ALTER TABLE clicks ADD COLUMN times TEXT")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise UserError(
                f"--sessions: {path} is a SQLite file of version {version} with {tables} tables, "
                f"expected sessions of version {VERSION}; name another file"
            )
    finally:
        connection.execute("COMMIT")


def _marks(values: list[Any]) -> str:
    return ",".join("?" * len(values))


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"SQLite: {error}") from error
