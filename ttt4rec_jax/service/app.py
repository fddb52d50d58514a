"""The application of an HTTP worker: checks the form of requests and hands them to the device."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from ttt4rec_jax.service import metrics, page, schemas
from ttt4rec_jax.service.guard import Guard
from ttt4rec_jax.service.hot import HotPath, given_fields
from ttt4rec_jax.service.problems import KINDS, MEDIA_TYPE, Problem
from ttt4rec_jax.service.requests import Answer, Link, Request
from ttt4rec_jax.service.settings import ServiceConfig

DESCRIPTION = """Recommendations for live sessions. A session is opened, clicks are added to it, and
each click can be answered by a new list. Problems are answered as RFC 9457 describes."""
SESSION_ID = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$", description="Of the session.")]
KEY = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,100}$",
        description="Any text that is new for each request. A request that is sent again with its "
        "key adds nothing, and is answered by the same number of clicks.",
    ),
]
MODEL = Annotated[str, Query(max_length=255, description="Name of a model; default: the first.")]
AT = Annotated[
    float | None,
    Query(
        ge=schemas.EARLIEST,
        le=schemas.LATEST,
        description="Seconds since 1970 for which the list is asked, for a model with "
        "--time=request; default: now.",
    ),
]
NO_KEY: Any = None
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Ask = Callable[[Request], Awaitable[Answer]]


def make_app(
    config: ServiceConfig,
    link: Callable[[], Link],
    api_key: str = "",
    lifespan: Lifespan | None = None,
) -> Guard:
    """Return the ASGI application. link: returns the way to the device process, once it runs."""

    async def ask(request: Request) -> Answer:
        return await link().ask(request)

    types = schemas.bodies(config)
    return Guard(
        HotPath(make_api(types, config, ask, lifespan), types.clicks, ask), config, api_key
    )


def make_api(
    types: schemas.Bodies, config: ServiceConfig, ask: Ask, lifespan: Lifespan | None = None
) -> FastAPI:
    """Return the routes and their description. ask: has a request answered."""
    app = FastAPI(
        title="ttt4rec_jax",
        description=DESCRIPTION,
        lifespan=lifespan,
        responses={"default": {"model": schemas.ProblemBody, "description": "A problem"}},
        docs_url=None,  # they load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    _add_routes(app, types, config, ask)
    return app


def _add_routes(app: FastAPI, types: schemas.Bodies, config: ServiceConfig, ask: Ask) -> None:
    async def respond(request: Request) -> Response:
        return _response(await ask(request))

    @app.post("/v1/recommend", response_model=schemas.Lists, tags=["recommend"])
    async def recommend(body: types.recommend) -> Response:  # type: ignore[name-defined]
        """Recommend for histories, by their last clicks, without a session."""
        return await respond(Request("recommend", **given_fields(body)))

    @app.post("/v1/sessions", response_model=schemas.Opened, status_code=201, tags=["sessions"])
    async def open_session() -> Response:
        """Open a session without clicks."""
        return await respond(Request("create"))

    @app.post("/v1/sessions/{id}/clicks", response_model=schemas.Clicked, tags=["sessions"])
    async def add_clicks(
        id: SESSION_ID,
        body: types.clicks,  # type: ignore[name-defined]
        key: KEY = NO_KEY,
    ) -> Response:
        """Add clicks, in order; answered when they are durable, with a list if `k` is given."""
        return await respond(Request("clicks", session=id, key=key or "", **given_fields(body)))

    @app.get("/v1/sessions/{id}/recommendations", response_model=schemas.Clicked, tags=["sessions"])
    async def recommendations(
        id: SESSION_ID,
        k: Annotated[int, Query(ge=1, le=config.max_k, description="Number of items.")] = 10,
        model: MODEL = "",
        at: AT = None,
    ) -> Response:
        """Return the list after the session's clicks so far."""
        return await respond(Request("list", session=id, k=k, model=model, at=at))

    @app.get("/v1/sessions/{id}", response_model=schemas.SessionNow, tags=["sessions"])
    async def session(id: SESSION_ID) -> Response:
        """Return the session's clicks, as far as they are kept."""
        return await respond(Request("session", session=id))

    @app.delete("/v1/sessions/{id}", status_code=204, tags=["sessions"])
    async def delete_session(id: SESSION_ID) -> Response:
        """Delete the session and its clicks."""
        return await respond(Request("delete", session=id))

    @app.get("/v1/items", response_model=schemas.Found, tags=["items"])
    async def find_items(
        q: Annotated[str, Query(max_length=200, description="Part of a title or id.")] = "",
        limit: Annotated[int, Query(ge=1, le=50)] = 20,
        model: MODEL = "",
    ) -> Response:
        """Find items by a part of their title or id, ignoring case."""
        return await respond(Request("items", text=q, k=limit, model=model))

    @app.post("/v1/admin/reload", response_model=schemas.Reloaded, tags=["operation"])
    async def reload() -> Response:
        """Load the run again from its folder; requests are answered meanwhile."""
        return await respond(Request("reload"))

    @app.get("/healthz", response_model=schemas.Health, tags=["operation"])
    async def healthz() -> Response:
        """Tell that the process is alive."""
        return Response(b'{"alive": true}', media_type="application/json")

    @app.get("/readyz", response_model=schemas.Ready, tags=["operation"])
    async def readyz() -> Response:
        """Tell whether all programs are compiled, and what is served."""
        return await respond(Request("status"))

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def get_metrics() -> Response:
        """Return metrics in Prometheus's format."""
        return Response(await asyncio.to_thread(metrics.render), media_type=metrics.MEDIA_TYPE)

    @app.get("/", include_in_schema=False)
    async def get_page() -> Response:
        """Return the page on which a person can click."""
        return Response(page.HTML, media_type="text/html", headers=page.HEADERS)


def _response(answer: Answer) -> Response:
    media_type = "application/json" if answer.status < 400 else MEDIA_TYPE
    headers = {"Retry-After": str(answer.retry_after)} if answer.retry_after else None
    if answer.status == 204:
        return Response(status_code=204)
    return Response(answer.body, answer.status, headers, media_type)


async def _problem(request: HttpRequest, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return _response(Answer.of(problem))


async def _invalid(request: HttpRequest, error: Exception) -> Response:
    """Answer a request of the wrong form; what was found is not repeated."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {"at": "/".join(map(str, found["loc"])), "detail": found["msg"]}
        for found in error.errors()[:10]
    ]
    is_json = any(found["type"] == "json_invalid" for found in error.errors())
    first = f"{errors[0]['at']}: {errors[0]['detail']}."
    return _response(
        Answer.of(Problem("bad-request" if is_json else "invalid", first, errors=errors))
    )


async def _http(request: HttpRequest, error: Exception) -> Response:
    """Answer what no route answers."""
    assert isinstance(error, HTTPException)
    kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request")
    assert KINDS[kind][0] == error.status_code or kind == "bad-request"
    details = {
        "not-found": "See /openapi.json for the addresses of this service.",
        "method-not-allowed": "See /openapi.json for the methods of this address.",
    }
    answer = _response(Answer.of(Problem(kind, details.get(kind, "The body is not JSON."))))
    answer.headers.update(error.headers or {})
    return answer
