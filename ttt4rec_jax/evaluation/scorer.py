"""Rank the evaluation sets by any function that scores candidates, on the host in NumPy.

For scorers that XLA cannot compile; the definitions are those of ranking.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.metrics import Ranks

# (histories [B, L], candidates [B, C]) -> scores [B, C]
ScoreFunction = Callable[[np.ndarray, np.ndarray], Any]
SCORES_AT_ONCE = 2**22


def rank_by_scorer(
    score: ScoreFunction, dataset: Dataset, split: str, max_len: int, batch_size: int
) -> dict[str, Ranks]:
    """Return {protocol: ranks} of the targets of a set, "validation" or "test".

    max_len: the maximum number of clicks in a history. Raises UserError if the shape of the scores
    differs from that of the candidates, or if a score is NaN.
    """
    targets = {"validation": dataset.validation, "test": dataset.test}[split]
    counts: dict[str, list[tuple[np.ndarray, ...]]] = {"sampled": [], "full": []}
    items_V = np.arange(1, dataset.num_items + 1, dtype=np.int32)
    rows = max(1, min(batch_size, SCORES_AT_ONCE // dataset.num_items))
    for first in range(0, len(targets.positions), rows):
        part = slice(first, first + rows)
        positions_B = targets.positions[part]
        starts_B = dataset.offsets[targets.users[part]]
        history_BxL = histories(dataset, starts_B, positions_B, max_len)
        target_Bx1 = dataset.items[positions_B][:, None]
        negatives_BxN = targets.negatives[part]
        candidates_BxC = np.concatenate([target_Bx1, negatives_BxN], 1).astype(np.int32)
        score_BxC = scored_in_disorder(score, history_BxL, candidates_BxC, first)
        counted = negatives_BxN > 0
        above, equal = compare(score_BxC[:, 1:], score_BxC[:, :1], counted)
        counts["sampled"].append((above, equal, counted.sum(1)))
        catalogue_BxV = np.repeat(items_V[None], len(positions_B), 0)
        score_BxV = checked(score(history_BxL, catalogue_BxV), catalogue_BxV.shape)
        counted = np.ones(score_BxV.shape, bool)
        for row, (start, position) in enumerate(zip(starts_B, positions_B, strict=True)):
            counted[row, dataset.items[start : position + 1] - 1] = False
        target_score_Bx1 = np.take_along_axis(score_BxV, target_Bx1 - 1, 1)
        above, equal = compare(score_BxV, target_score_Bx1, counted)
        counts["full"].append((above, equal, counted.sum(1)))
    return {
        protocol: Ranks(*(np.concatenate(x).astype(np.int64) for x in zip(*parts, strict=True)))
        for protocol, parts in counts.items()
    }


def scored_in_disorder(
    score: ScoreFunction, history_BxL: np.ndarray, candidates_BxC: np.ndarray, seed: int
) -> np.ndarray:
    """Return the scores of candidates that the scorer sees in random order, the target anywhere.

    So a scorer that favours what comes first, as a sort does, gains nothing by it.
    """
    order_BxC = np.random.default_rng(seed).random(candidates_BxC.shape).argsort(1)
    shuffled_BxC = np.take_along_axis(candidates_BxC, order_BxC, 1)
    score_BxC = checked(score(history_BxL, shuffled_BxC), candidates_BxC.shape)
    return np.take_along_axis(score_BxC, order_BxC.argsort(1), 1)


def histories(
    dataset: Dataset, starts_B: np.ndarray, positions_B: np.ndarray, max_len: int
) -> np.ndarray:
    """Return the last max_len clicks before each position [B, L], padded with 0 at the right."""
    first_B = np.maximum(starts_B, positions_B - max_len)
    position_BxL = first_B[:, None] + np.arange(max_len)
    is_click = position_BxL < positions_B[:, None]
    last = len(dataset.items) - 1
    return np.where(is_click, dataset.items[np.minimum(position_BxL, last)], 0).astype(np.int32)


def checked(scores: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return scores as an array of the expected shape. Raises UserError."""
    scores = np.asarray(scores)
    if scores.shape != shape:
        raise UserError(f"scorer: returned scores of shape {scores.shape}, expected {shape}")
    if np.isnan(scores).any():
        raise UserError("scorer: returned NaN for a candidate, which has no rank then")
    return scores


def compare(
    score_BxC: np.ndarray, target_Bx1: np.ndarray, counted_BxC: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers [B] of counted scores (above, equal to) the target's."""
    above = (score_BxC > target_Bx1) & counted_BxC
    equal = (score_BxC == target_Bx1) & counted_BxC
    return above.sum(1), equal.sum(1)
