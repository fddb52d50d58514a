"""Recommendations as rows of a file. Imports no JAX."""

from collections.abc import Iterable
from typing import Any

from ttt4rec_jax.serving.load_export import Recommendation

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet's formula may begin


def without_formulas(row: Iterable[Any]) -> list[Any]:
    """Return a row with ' before each text that begins as a spreadsheet's formula does."""
    return [f"'{x}" if isinstance(x, str) and x.startswith(FORMULA) else x for x in row]


def has_return(columns: dict[str, list]) -> bool:
    """Return whether any text has a carriage return."""
    return any(isinstance(x, str) and "\r" in x for column in columns.values() for x in column)


def as_dict(user: Any, recommendation: Recommendation) -> dict[str, Any]:
    """Return a user's recommendation as the content of a line of JSON."""
    titles = {} if recommendation.titles is None else {"titles": recommendation.titles}
    return {
        "user": user,
        "items": recommendation.ids,
        "scores": recommendation.scores.tolist(),
        **titles,
        "source": recommendation.source,
    }


def as_rows(users: list, recommendations: list[Recommendation]) -> dict[str, list]:
    """Return recommendations as columns with one row per recommended item."""
    columns: dict[str, list] = {
        name: [] for name in ("user", "rank", "item", "score", "title", "source")
    }
    for user, (ids, scores, titles, source) in zip(users, recommendations, strict=True):
        columns["user"] += [user] * len(ids)
        columns["rank"] += range(1, len(ids) + 1)
        columns["item"] += ids
        columns["score"] += scores.tolist()
        columns["title"] += titles or ()
        columns["source"] += [source] * len(ids)
    if recommendations and recommendations[0].titles is None:
        del columns["title"]
    return columns
