"""What an HTTP worker asks the device process, and what it is answered. Imports no JAX."""

import dataclasses
import json
from typing import NamedTuple, Protocol

from ttt4rec_jax.service.problems import Problem

Id = int | str
# answered in batches by the device thread; the others (CONTROL) beside it
BATCHED = ("recommend", "create", "clicks", "list", "session", "delete")
CONTROL = ("items", "status", "reload")


@dataclasses.dataclass(slots=True)
class Request:
    """One request, checked for its form but not yet for its ids.

    k: 0 for no list. model: "" for the first one. items: the clicks of kind "clicks". times: those
    of the clicks, one list for each history of kind "recommend". at: the time for which lists are
    asked; None for the present. text: what titles contain, of kind "items".
    """

    kind: str
    session: str = ""
    items: list[Id] = dataclasses.field(default_factory=list)
    histories: list[list[Id]] = dataclasses.field(default_factory=list)
    times: list[float] | list[list[float]] | None = None
    at: float | None = None
    k: int = 0
    key: str = ""
    model: str = ""
    text: str = ""
    exclude_seen: bool = True
    exclude: list[Id] = dataclasses.field(default_factory=list)
    include_only: list[Id] | None = None
    unknown: str = "error"

    def to_bytes(self) -> bytes:
        """Return the request as JSON, without fields at their defaults."""
        changed = {}
        for name, default in DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                changed[name] = value
        return json.dumps(changed).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Request":
        """Return the request of `to_bytes`."""
        return cls(**json.loads(content))


DEFAULTS = dataclasses.asdict(Request(""))


class Answer(NamedTuple):
    """A status of HTTP, a body of JSON, and after how many seconds to try again (0: no word)."""

    status: int
    body: bytes
    retry_after: int = 0

    @classmethod
    def of(cls, problem: Problem) -> "Answer":
        """Return a problem as an answer."""
        return cls(problem.status, problem.body(), problem.retry_after)

    @classmethod
    def json(cls, content: object, status: int = 200) -> "Answer":
        """Return content as an answer."""
        return cls(status, json.dumps(content).encode())


class Link(Protocol):
    """The way from an HTTP worker to the device process."""

    async def ask(self, request: Request) -> Answer:
        """Return the answer to a request; problems too are answers. Raises Problem."""
        ...
