"""How many items a request asks for, and which ones it excludes, as bit masks for the engine."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving.engine import Blocked
from ttt4rec_jax.serving.load_export import set_bits
from ttt4rec_jax.serving.top_k import pack_mask


class Request(NamedTuple):
    """How many items a call asks for, and which ones it excludes."""

    k: int
    exclude_seen: bool
    blocked_V: np.ndarray

    def after_clicks(self, clicks: Sequence[np.ndarray]) -> Blocked:
        """Return the function that makes the bit masks of histories. clicks: their items."""
        return self._masks(clicks, set_bits)

    def after_seen(self, seen: Sequence[np.ndarray]) -> Blocked:
        """Return the function that makes the bit masks of sessions. seen: masks of seen items."""

        def add(blocked_BxW: np.ndarray, seen: Sequence[np.ndarray]) -> None:
            seen_BxW = np.stack(seen)
            blocked_BxW[:, : seen_BxW.shape[1]] |= seen_BxW

        return self._masks(seen, add)

    def _masks(self, seen: Sequence[np.ndarray], add: Callable[..., None]) -> Blocked:
        """Return the function that makes masks. add(masks, seen): add what some rows have seen."""
        shared_W = pack_mask(self.blocked_V)

        def blocked(part: slice) -> np.ndarray:
            blocked_BxW = np.repeat(shared_W[None], len(seen[part]), 0)
            if self.exclude_seen:
                add(blocked_BxW, seen[part])
            return blocked_BxW

        return blocked


def make_request(
    catalogue: Catalogue,
    k: int,
    unknown: str,
    *,
    exclude_seen: bool = True,
    exclude: Iterable[int | str] = (),
    include_only: Iterable[int | str] | None = None,
) -> Request:
    """Return the checked arguments of a call of Recommender. Raise UserError if one is wrong."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise UserError(f"k: found {k!r}, expected a whole number of at least 1")
    blocked_V = np.zeros(len(catalogue), bool)
    if include_only is not None:
        (included,) = catalogue.encode([include_only], unknown, "include_only")
        blocked_V[:] = True
        blocked_V[included - 1] = False
    (excluded,) = catalogue.encode([exclude], unknown, "exclude")
    blocked_V[excluded - 1] = True
    return Request(int(k), exclude_seen, blocked_V)
