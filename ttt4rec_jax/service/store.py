"""Stores of sessions: their clicks, and now and then a model's state after some of them."""

import dataclasses
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """The store cannot be read or written; the message is one line."""


class Clicks(NamedTuple):
    """The clicks of one request: ids as text, and the number of the session's clicks before.

    times: in seconds since 1970; None where an earlier version kept none.
    """

    first: int
    ids: list[str]
    times: list[float] | None = None


class Saved(NamedTuple):
    """A model's state of a session after some clicks, as bytes, and the items seen by then."""

    clicks: int
    state: bytes
    seen: bytes


class Append(NamedTuple):
    """Clicks to add to a session that has `clicks.first` clicks. key: "" for none."""

    session: str
    clicks: Clicks
    key: str


@dataclasses.dataclass
class Changes:
    """What one transaction writes.

    saved: {(session, version of the model): state}. creates, deletes: sessions.
    """

    creates: list[str] = dataclasses.field(default_factory=list)
    appends: list[Append] = dataclasses.field(default_factory=list)
    deletes: list[str] = dataclasses.field(default_factory=list)
    saved: dict[tuple[str, str], Saved] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.creates or self.appends or self.deletes or self.saved)


class Store(Protocol):
    """Where sessions are kept. Every method raises StoreError if the store cannot be used.

    `commit` may run in one thread while another one reads.
    durability: what an acknowledged click survives, as a sentence. has_other_writers: whether
    other processes are expected to add clicks to the same sessions; they may in either case.
    """

    durability: str
    has_other_writers: bool

    def counts(self, sessions: list[str]) -> dict[str, int]:
        """Return the number of clicks of each of the sessions that exist and have not expired."""
        ...

    def outcomes(self, keys: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return, for each known (session, idempotency key), the clicks after its request."""
        ...

    def clicks(self, session: str, start: int, stop: int) -> list[Clicks]:
        """Return the kept requests that have any of a session's clicks start..stop-1, in order."""
        ...

    def saved(self, session: str, version: str) -> Saved | None:
        """Return the last saved state of a version of a model."""
        ...

    def commit(self, changes: Changes) -> set[str]:
        """Write changes durably, and return the sessions to which nothing could be appended.

        These have other clicks than `Append` says, or do not exist any more: another process has
        changed them.
        """
        ...

    def purge(self) -> int:
        """Remove expired sessions, and return the number of all that remain."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...
