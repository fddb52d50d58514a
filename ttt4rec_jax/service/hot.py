"""A shorter way for the requests that matter most: clicks that are answered by a list.

What it cannot take as it is (another address, anything not valid) goes to the application, which
has the same route, describes it, and explains what is wrong.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from ttt4rec_jax.service.guard import JSON_TYPE, Message, Receive, Send
from ttt4rec_jax.service.problems import MEDIA_TYPE
from ttt4rec_jax.service.requests import Answer, Request

ROUTE = "/v1/sessions/{id}/clicks"
PATH = re.compile(r"/v1/sessions/([A-Za-z0-9_-]{1,64})/clicks")
KEY = re.compile(rb"[!-~]{1,100}")


class HotPath:
    """An ASGI application in front of another one. ask: has a request answered."""

    def __init__(
        self, app: Callable, body: type[BaseModel], ask: Callable[[Request], Awaitable[Answer]]
    ):
        self.app = app
        self.body = body
        self.ask = ask

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; its body was read before (guard.py)."""
        request = self._request(scope) if scope["type"] == "http" else None
        if request is None:
            await self.app(scope, receive, send)
            return
        scope["route_path"] = ROUTE
        answer = await self.ask(request)
        media_type = "application/json" if answer.status < 400 else MEDIA_TYPE
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        if answer.retry_after:
            headers.append((b"retry-after", str(answer.retry_after).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _request(self, scope: Message) -> Request | None:
        """Return the request if it is one that can take the short way."""
        path = PATH.fullmatch(scope["path"])
        if not path or scope["method"] != "POST":
            return None
        headers: dict[bytes, bytes] = scope["guarded_headers"]
        key = headers.get(b"idempotency-key")
        if headers.get(b"content-type") != JSON_TYPE or (key and not KEY.fullmatch(key)):
            return None
        try:
            body: Any = self.body.model_validate_json(scope["guarded_body"])
        except ValidationError:
            return None
        return Request(
            "clicks", session=path[1], key=key.decode() if key else "", **given_fields(body)
        )


def given_fields(body: Any) -> dict[str, Any]:
    """Return the fields of a body that were given, and k."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    given["k"] = body.k or 0
    return given
