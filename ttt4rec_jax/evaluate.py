"""Ranks of held-out targets: among sampled negatives and in the full catalogue. Metrics of ranks are in metrics.py."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.data import Clicks, Dataset, Targets, histories
from ttt4rec_jax.metrics import Ranks

PROTOCOLS = ("sampled", "full")
SCORES_AT_ONCE = 2**24  # bounds users x items of one batch


class NonFiniteScoresError(ArithmeticError):
    """A model scored a candidate with NaN: its ranks would mean nothing."""


def compare_sampled(user_BxD, item_vectors_VxD, candidates_BxC):
    """(greater, ties) [B] of candidate 0 among the others."""
    score_BxC = jnp.einsum("BD,BCD->BC", user_BxD, item_vectors_VxD[candidates_BxC])
    target, others = score_BxC[:, :1], score_BxC[:, 1:]
    return (others > target).sum(1), (others == target).sum(1), jnp.isnan(score_BxC).any()


def compare_full(user_BxD, item_vectors_VxD, target_B, seen_BxS):
    """(greater, ties, others) [B] of the target in the catalogue less the seen items.

    seen_BxS: distinct items to leave out, 0 where there is none; a target that was seen before stays a candidate.
    Counts what the seen items contribute and takes it off, which needs no mask of users x items.
    """
    score_BxV = (user_BxD @ item_vectors_VxD.T)[:, 1:]
    target_Bx1 = jnp.take_along_axis(score_BxV, target_B[:, None] - 1, 1)
    out_BxS = (seen_BxS > 0) & (seen_BxS != target_B[:, None])
    seen_score_BxS = jnp.take_along_axis(score_BxV, jnp.maximum(seen_BxS - 1, 0), 1)
    greater = (score_BxV > target_Bx1).sum(1) - (out_BxS & (seen_score_BxS > target_Bx1)).sum(1)
    ties = (score_BxV == target_Bx1).sum(1) - (out_BxS & (seen_score_BxS == target_Bx1)).sum(1) - 1
    return greater, ties, score_BxV.shape[1] - 1 - out_BxS.sum(1), jnp.isnan(score_BxV).any()


def rank_targets(model, clicks: Clicks, targets: Targets, num_items: int, max_len: int, max_seen: int):
    """Ranks of M batches of targets, one batch at a time: {protocol: (greater, ties, others) [M, B]}, and whether any is NaN.

    targets: arrays with leading axes [M, B]; max_seen: the longest history that is filtered.
    """
    item_vectors_VxD = model.item_vectors(jnp.arange(num_items + 1))

    def batch(targets):
        positions_B, users_B, negatives_BxC = targets
        history_BxL, length_B = histories(clicks, positions_B, users_B, max_len)
        user_BxD = model.encode(history_BxL, length_B)
        target_B = clicks.items[positions_B]
        candidates_BxC = jnp.concatenate([target_B[:, None], negatives_BxC], 1)
        *sampled, sampled_nan = compare_sampled(user_BxD, item_vectors_VxD, candidates_BxC)
        position_BxS = clicks.starts[users_B][:, None] + jnp.arange(max_seen)
        seen = (position_BxS < positions_B[:, None]) & clicks.is_first[position_BxS]
        *full, full_nan = compare_full(user_BxD, item_vectors_VxD, target_B, jnp.where(seen, clicks.items[position_BxS], 0))
        others = jnp.full_like(target_B, negatives_BxC.shape[1])
        return {"sampled": (*sampled, others), "full": tuple(full)}, sampled_nan | full_nan

    return jax.lax.map(batch, targets)


class Evaluator:
    """Ranks the targets of a data set's evaluation sets with any parameters of one model; compiled when made."""

    def __init__(self, graphdef, params, dataset: Dataset, clicks: Clicks, max_len: int):
        sets = {"validation": dataset.validation, "test": dataset.test}
        self.counts = {name: len(targets.positions) for name, targets in sets.items()}
        most = max(self.counts.values())
        rows = int(np.clip(SCORES_AT_ONCE // (dataset.num_items + 1), 1, min(1024, most)))
        batches = -(-most // rows)  # the same for both sets, so that one program serves both

        def split(x):
            filler = np.repeat(x[:1], batches * rows - len(x), 0)
            return jnp.asarray(np.concatenate([x, filler]).reshape(batches, rows, *x.shape[1:]))

        self.clicks, self.targets = clicks, {name: Targets(*map(split, targets)) for name, targets in sets.items()}
        max_seen = max(int((t.positions - dataset.offsets[t.users]).max()) for t in sets.values())

        def rank(params, clicks, targets):
            model = nnx.merge(graphdef, params)
            return rank_targets(model, clicks, targets, dataset.num_items, max_len, max_seen)

        self.rank = rank
        self._compiled = jax.jit(rank).lower(params, clicks, self.targets["test"]).compile()

    def __call__(self, params, name: str) -> dict[str, Ranks]:
        """{protocol: Ranks} of the targets of "validation" or "test". Raises NonFiniteScoresError."""
        ranks, nan = self._compiled(params, self.clicks, self.targets[name])
        if np.asarray(nan).any():
            raise NonFiniteScoresError("the model scores a candidate with NaN")
        count = self.counts[name]
        return {p: Ranks(*(np.asarray(x, np.int64).reshape(-1)[:count] for x in ranks[p])) for p in PROTOCOLS}
