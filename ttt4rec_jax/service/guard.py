"""What every request passes before the application: key, size, time; and what is told of it."""

import asyncio
import base64
import binascii
import hmac
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ttt4rec_jax.service import metrics
from ttt4rec_jax.service.logs import AccessLog
from ttt4rec_jax.service.problems import MEDIA_TYPE, Problem
from ttt4rec_jax.service.settings import ServiceConfig

logger = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
JSON_TYPE = b"application/json"
OPEN = ("/healthz", "/readyz")  # need no key
RELOAD = "/v1/admin/reload"
RELOAD_S = 600.0  # that loading a run may take
SAME_SITE = (None, b"none", b"same-origin")
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """Middleware around an ASGI application. api_key: "" if none is needed.

    The application finds the body in scope["guarded_body"] too, and the headers as a dictionary in
    scope["guarded_headers"].
    """

    def __init__(self, app: Callable, config: ServiceConfig, api_key: str):
        self.app = app
        self.config = config
        self.api_key = api_key.encode()
        self.prefix = secrets.token_hex(4)
        self.numbers = itertools.count(1)
        self.log = AccessLog() if config.access_log else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        number = f"{self.prefix}-{next(self.numbers):x}"
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *HEADERS,
                    (b"x-request-id", number.encode()),
                ]
            await send(message)

        try:
            await self._answer(scope, receive, send_and_note)
        except Problem as problem:
            await respond(problem, send_and_note)
        except Exception:
            logger.exception("a request failed", extra={"request": number})
            if status:
                raise  # an answer has begun; the connection is closed
            await respond(Problem("internal", "The log of the service says more."), send_and_note)
        finally:
            self._note(scope, status, number, time.perf_counter() - start)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Have a request answered in the time that it may take. Raises Problem."""
        headers = scope["guarded_headers"] = dict(scope["headers"])
        self._check(scope["path"], headers)
        body = None
        # a bit longer than requests may wait for the device, which knows whether they were done
        seconds = RELOAD_S if scope["path"] == RELOAD else self.config.timeout_s + 1
        try:
            async with asyncio.timeout(seconds):
                body = scope["guarded_body"] = await self._body(headers, receive)
                await self.app(scope, _replayed(body, receive), send)
        except TimeoutError as error:
            if body is None:
                detail = f"A body arrives within {seconds:g} seconds."
                raise Problem("timeout-reading", detail) from error
            detail = "A click may have been added; send it again with its idempotency key."
            raise Problem("timeout", detail, retry_after=1) from error

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        """Raise Problem for a request without the key, or from a page of another site."""
        if path in OPEN:
            return
        if headers.get(b"sec-fetch-site") not in SAME_SITE:
            raise Problem("cross-site", "Call the service from its own page, or from a server.")
        if self.api_key and not hmac.compare_digest(given_key(headers), self.api_key):
            raise Problem("unauthorized", "Send it as Authorization: Bearer KEY.")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Read the body. Raises Problem if it is too large."""
        most = self.config.max_body_kb * 1024
        announced = headers.get(b"content-length", b"")
        if not announced and b"transfer-encoding" not in headers:
            return b""
        too_large = f"A body has at most {most:,} bytes."
        if announced.isdigit() and int(announced) > most:
            raise Problem("too-large", too_large)
        parts = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem("bad-request", "The connection was closed.")
            parts += message.get("body", b"")
            if len(parts) > most:
                raise Problem("too-large", too_large)
            if not message.get("more_body", False):
                return parts

    def _note(self, scope: Message, status: int, number: str, seconds: float) -> None:
        """Count a request, and log it by its route, which holds no id."""
        found = scope.get("route_path") or getattr(scope.get("route"), "path", None)
        route = str(found or "none")
        metrics.note(route, status, seconds)
        if self.log:
            self.log.note(number, scope["method"], route, status, seconds)


def given_key(headers: dict[bytes, bytes]) -> bytes:
    """Return a request's key: a bearer token, X-API-Key, or the password of Basic, for pages."""
    kind, _, value = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer":
        return value.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return headers.get(b"x-api-key", b"")


async def respond(problem: Problem, send: Send) -> None:
    """Send a problem as an answer."""
    body = problem.body()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    if problem.retry_after:
        headers.append((b"retry-after", str(problem.retry_after).encode()))
    if problem.kind == "unauthorized":
        headers.append((b"www-authenticate", b'Basic realm="ttt4rec", charset="UTF-8"'))
    if problem.kind in ("too-large", "timeout-reading"):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives a body that was read, and then what else arrives."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
