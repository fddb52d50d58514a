"""The candidates of the sampled evaluation: which to score, and ranks by scores from elsewhere.

Imports no JAX.
"""

import numpy as np
import polars as pl

from data_prep.errors import UserError
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.evaluation.lists import check_share, rows_of_targets
from ttt4rec_jax.evaluation.tables import Rows
from ttt4rec_jax.metrics import Ranks


def candidates_of(dataset: Dataset, targets: Targets) -> np.ndarray:
    """Return the target and its negatives of each row [T, C]; 0 is no candidate."""
    target_T = dataset.items[targets.positions]
    return np.concatenate([target_T[:, None], targets.negatives], 1).astype(np.int64)


def shuffled_candidates(dataset: Dataset, targets: Targets, seed: int) -> pl.DataFrame:
    """Return the candidates of each target, as columns user and item, in an order that hides it.

    Users whose target has no negatives take no part in the sampled evaluation, and are left out.
    """
    item_TxC = candidates_of(dataset, targets)[targets.negatives[:, 0] > 0]
    user_T = targets.users[targets.negatives[:, 0] > 0].astype(np.int64)
    shuffled = np.random.default_rng((seed, 2)).permuted(item_TxC, axis=1)
    table = pl.DataFrame({"user": np.repeat(user_T, item_TxC.shape[1]), "item": shuffled.ravel()})
    return table.filter(pl.col("item") > 0)


def rank_scores(
    rows: Rows, dataset: Dataset, targets: Targets, what: str
) -> tuple[Ranks, dict[str, int]]:
    """Return the ranks [T] of targets among their negatives by scores, and counts of the scores.

    A negative without a score comes after everything that has one; a target without a score is the
    last. Both are counted. what: the flag, for errors. Raises UserError if half of the users have
    no score, or a candidate has two scores.
    """
    table, counts = rows_of_targets(rows, dataset, targets, what)
    item_TxC = candidates_of(dataset, targets)
    is_candidate_TxC = item_TxC > 0
    takes_part_T = is_candidate_TxC[:, 1:].any(1)
    stride = dataset.num_items + 1
    code_TxC = np.arange(len(item_TxC))[:, None] * stride + item_TxC
    given = table.drop_nulls("item").with_columns(code=pl.col("target") * stride + pl.col("item"))
    is_asked = np.isin(given["code"].to_numpy(), code_TxC[is_candidate_TxC])
    counts["other_pairs"] = len(given) - int(is_asked.sum())
    given = given.filter(is_asked)
    unique = given.unique(["code", "key"])
    counts["repeated_items"] = len(given) - len(unique)
    _check_one_score(unique, what)
    unique = unique.sort("code")
    code_n, key_n = (unique[name].to_numpy() for name in ("code", "key"))
    place_TxC = np.searchsorted(code_n, code_TxC).clip(0, max(len(code_n) - 1, 0))
    has_score_TxC = is_candidate_TxC & (code_n[place_TxC] == code_TxC if len(code_n) else False)
    without = takes_part_T & ~has_score_TxC.any(1)
    counts["users_without_scores"] = int(without.sum())
    check_share(int(without.sum()), int(takes_part_T.sum()), "test users have no score", what)
    missing = (is_candidate_TxC & ~has_score_TxC)[takes_part_T]
    counts["candidates_without_score"] = int(missing.sum())
    counts["targets_without_score"] = int(missing[:, 0].sum())
    score_TxC = np.where(has_score_TxC, key_n[place_TxC] if len(key_n) else 0.0, 0.0)
    above = has_score_TxC[:, 1:] & (score_TxC[:, 1:] > score_TxC[:, :1])
    equal = has_score_TxC[:, 1:] & (score_TxC[:, 1:] == score_TxC[:, :1])
    others = is_candidate_TxC[:, 1:].sum(1)
    is_scored = has_score_TxC[:, 0]
    greater = np.where(is_scored, above.sum(1), others)
    return Ranks(greater, np.where(is_scored, equal.sum(1), 0), others), counts


def _check_one_score(unique: pl.DataFrame, what: str) -> None:
    """Raise UserError if a pair of user and item has several scores."""
    repeated = unique.filter(pl.col("code").is_duplicated())
    if len(repeated):
        row = repeated.sort("code")
        scores = f"{row['key'][0]:g} and {row['key'][1]:g}"
        raise UserError(
            f"{what}: {repeated['code'].n_unique():,} candidates have several scores, one of them "
            f"{scores}; give one score for each user and item"
        )
