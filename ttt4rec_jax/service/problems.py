"""Problems as RFC 9457 describes them: what a request that cannot be answered is told."""

import json
from typing import Any

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:ttt4rec:problem:"

# kind -> (status, title); the kind ends the URN in "type"
KINDS = {
    "bad-request": (400, "The request cannot be read"),
    "unauthorized": (401, "The API key is missing or wrong"),
    "cross-site": (403, "Pages of other sites may not use this service"),
    "not-found": (404, "There is nothing at this address"),
    "unknown-session": (404, "There is no such session"),
    "unknown-model": (404, "There is no such model"),
    "method-not-allowed": (405, "This address has no such method"),
    "timeout-reading": (408, "The request did not arrive in time"),
    "stale-session": (409, "The session cannot be carried over to this model"),
    "too-large": (413, "The request is too large"),
    "invalid": (422, "The request is not valid"),
    "unknown-item": (422, "An item is not in the data"),
    "busy": (429, "Too many requests are waiting"),
    "too-many-sessions": (429, "Too many sessions are open"),
    "internal": (500, "The service failed"),
    "damaged-model": (500, "The model is damaged"),
    "reload-failed": (500, "The run could not be loaded"),
    "not-ready": (503, "The service is not ready"),
    "store-unavailable": (503, "The session store cannot be used"),
    "timeout": (503, "The answer took too long"),
}


class Problem(Exception):
    """A request cannot be answered.

    kind: one of KINDS; detail: a sentence about this request; retry_after: seconds, 0 for none.
    """

    def __init__(self, kind: str, detail: str, *, retry_after: int = 0, **more: Any):
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.retry_after = retry_after
        self.more = more

    def body(self) -> bytes:
        """Return the problem as JSON."""
        content = {
            "type": PREFIX + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": str(self),
            **self.more,
        }
        return json.dumps(content).encode()
