"""Recommendations by the ids of the data, from what the engine has ranked."""

from collections.abc import Sequence

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving.engine import Ranked
from ttt4rec_jax.serving.load_export import Recommendation


def recommendations(
    items: Catalogue,
    ranked: list[Ranked],
    is_empty: Sequence[bool],
    k: int,
    blocked_V: np.ndarray,
) -> list[Recommendation]:
    """Return the k best items by their ids; the most popular ones that are not blocked where
    `is_empty`. Raise UserError if a score is NaN.
    """
    found: list[Recommendation] = []
    most_popular = popular(items, k, blocked_V) if any(is_empty) else None
    for batch in ranked:
        scores_Bxk = np.asarray(batch.scores)
        rows_Bxk = (np.asarray(batch.items) - 1).tolist()
        is_nan_B = np.isnan(scores_Bxk).any(1)
        for i, count in enumerate(np.minimum(batch.num_allowed, k).tolist()):
            if most_popular is not None and is_empty[len(found)]:
                found.append(most_popular)
                continue
            if is_nan_B[i]:
                raise UserError(
                    "the model's score of an item is NaN; its checkpoint is damaged; "
                    "copy the run folder again"
                )
            found.append(of_rows(items, rows_Bxk[i][:count], scores_Bxk[i, :count], "model"))
    return found


def popular(items: Catalogue, k: int, blocked_V: np.ndarray) -> Recommendation:
    """Return the items with the most training clicks."""
    most_clicked = items.most_clicked
    rows = most_clicked[~blocked_V[most_clicked - 1]][:k] - 1
    scores = items.clicks[rows].astype(np.float32)
    return of_rows(items, rows.tolist(), scores, "popularity")


def of_rows(items: Catalogue, rows: list[int], scores: np.ndarray, source: str) -> Recommendation:
    """Return a recommendation of the items in some rows of the catalogue."""
    ids = [items.ids[row] for row in rows]
    titles = items.titles and [items.titles[row] for row in rows]
    return Recommendation(ids, scores, titles, source)
