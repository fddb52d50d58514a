"""Lists of items as the JSON of an answer."""

import json
from collections.abc import Sequence

import numpy as np

from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.service.models import Best
from ttt4rec_jax.service.store import Clicks


class Items:
    """The items of a model as pieces of JSON, which are made once."""

    def __init__(self, items: Catalogue):
        self.items = items
        titles = items.titles or [None] * len(items)
        self.json = [_item(id, title) for id, title in zip(items.ids, titles, strict=True)]

    def listed(self, kept: Sequence[Clicks]) -> list[dict]:
        """Return clicks with the titles of their items, also of items that the model lacks."""
        listed = []
        for clicks in kept:
            for i, id in enumerate(clicks.ids):
                time = clicks.times[i] if clicks.times else None
                listed.append({"id": id, "title": self.items.title(id) or None, "time": time})
        return listed

    def found(self, text: str, limit: int) -> list[dict]:
        """Return the first items whose title, or whose id, contains a text, ignoring case."""
        folded = text.casefold()
        titles = self.items.titles or [None] * len(self.items)
        found = []
        for id, title in zip(self.items.ids, titles, strict=True):
            if folded in (title or "").casefold() or folded in str(id).casefold():
                found.append({"id": str(id), "title": title})
                if len(found) == limit:
                    break
        return found

    def best(self, best: Best, k_B: Sequence[int]) -> list[str]:
        """Return the JSON of each row's k best items, without excluded ones; "" for a NaN."""
        allowed_B = ((best.scores > -np.inf) & (best.items > 0)).sum(1).tolist()
        is_nan_B = np.isnan(best.scores).any(1).tolist()
        texts = []
        for scores, items, k, allowed, is_nan in zip(
            best.scores.tolist(), best.items.tolist(), k_B, allowed_B, is_nan_B, strict=True
        ):
            count = min(k, allowed)
            parts = [
                f'{self.json[item - 1]}, "score": {score:.7g}}}'  # as precise as they are
                for item, score in zip(items[:count], scores[:count], strict=True)
            ]
            texts.append("" if is_nan else f'"items": [{", ".join(parts)}], "source": "model"')
        return texts

    def popular(self, excluded_W: np.ndarray, k: int) -> str:
        """Return the JSON of the items with the most training clicks, which are the scores."""
        items = self.items.most_clicked
        is_excluded = excluded_W[(items - 1) >> 3] >> ((items - 1) & 7) & 1
        chosen = items[is_excluded == 0][:k]
        parts = [
            f'{self.json[i - 1]}, "score": {float(self.items.clicks[i - 1])!r}}}' for i in chosen
        ]
        return f'"items": [{", ".join(parts)}], "source": "popularity"'


def _item(id: int | str, title: str | None) -> str:
    """Return an item as JSON without its closing brace."""
    return f'{{"id": {json.dumps(str(id))}, "title": {json.dumps(title)}'
