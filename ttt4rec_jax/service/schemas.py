"""Bodies of requests and answers, as pydantic checks them and OpenAPI documents them."""

from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, create_model

from ttt4rec_jax.service.settings import ServiceConfig

LONGEST_ID = 200  # characters
LATEST = 1e11  # of times in seconds; present times in milliseconds lie beyond
EARLIEST = -LATEST
IdText = Annotated[StrictStr, Field(max_length=LONGEST_ID)]
IdNumber = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Id = IdNumber | IdText
Seconds = Annotated[
    float, Field(strict=True, ge=EARLIEST, le=LATEST, description="Seconds since 1970.")
]


class Body(BaseModel):
    """A body without fields that are not known."""

    model_config = ConfigDict(extra="forbid")


class Item(BaseModel):
    """An item of the data."""

    id: str
    title: str | None


class Scored(Item):
    """A recommended item."""

    score: float


class Listed(BaseModel):
    """A list of items, the best first.

    source: "model", or "popularity" for a history without clicks, whose scores are numbers of
    clicks in the training data.
    """

    items: list[Scored]
    source: str


class Lists(BaseModel):
    """A list for each history."""

    lists: list[Listed]


class Opened(BaseModel):
    """A new session."""

    id: str
    clicks: int


class Clicked(BaseModel):
    """The clicks of a session after a request, and the list, if one was asked for.

    replayed: whether the request's idempotency key had been used before, so that nothing was added.
    """

    clicks: int
    replayed: bool = False
    items: list[Scored] | None = None
    source: str | None = None


class ClickedItem(Item):
    """An item that was clicked. time: in seconds since 1970, null if it was not kept."""

    time: float | None


class SessionNow(BaseModel):
    """A session with its clicks, as far as they are kept."""

    id: str
    clicks: int
    items: list[ClickedItem]


class Found(BaseModel):
    """Items whose title or id contains a text."""

    items: list[Item]


class Served(BaseModel):
    """A model that is served. version: a digest of its parameters, settings and items."""

    name: str
    kind: str
    version: str
    items: int
    titles: bool


class Reloaded(BaseModel):
    """The models after a reload."""

    models: list[Served]


class Ready(Reloaded):
    """Whether requests are answered. durability: what an acknowledged click survives."""

    ready: bool
    durability: str


class Health(BaseModel):
    """The process is alive."""

    alive: bool


class ProblemBody(BaseModel):
    """A problem as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str


class Bodies(NamedTuple):
    """Types of what requests carry, with the limits of a configuration."""

    recommend: Any
    clicks: Any


def bodies(config: ServiceConfig) -> Bodies:
    """Return the types of requests under the limits of a configuration."""
    k = Annotated[StrictInt, Field(ge=1, le=config.max_k, description="Number of items.")]
    model = Annotated[
        StrictStr, Field(max_length=255, description="Name of a model; the first by default.")
    ]
    ids = Annotated[list[Id], Field(max_length=config.max_history)]
    filters: dict[str, Any] = {
        "model": (model, ""),
        "exclude_seen": (StrictBool, Field(True, description="Leave out items clicked before.")),
        "exclude": (ids, Field([], description="Items that are left out.")),
        "include_only": (ids | None, Field(None, description="Items that are not left out.")),
        "unknown": (
            Annotated[StrictStr, Field(pattern="^(error|skip)$")],
            Field("error", description="What to do with ids that are not in the data."),
        ),
    }
    histories = Annotated[list[ids], Field(min_length=1, max_length=config.max_histories)]
    clicks = Annotated[list[Id], Field(min_length=1, max_length=config.max_clicks)]
    at = "The time for which the list is asked, for a model with --time=request; default: now."
    filters["at"] = (Seconds | None, Field(None, description=at))
    of_histories = "The times of the clicks of each history, which a model with --time needs."
    of_clicks = "The times of the clicks, one each; default: now."
    return Bodies(
        create_model(
            "RecommendBody",
            __base__=Body,
            histories=(histories, ...),
            times=(list[list[Seconds]] | None, Field(None, description=of_histories)),
            k=(k, 10),
            **filters,
        ),
        create_model(
            "ClicksBody",
            __base__=Body,
            items=(clicks, ...),
            times=(list[Seconds] | None, Field(None, description=of_clicks)),
            k=(k | None, None),
            **filters,
        ),
    )
