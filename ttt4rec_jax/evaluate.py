"""Ranks of held-out targets: among sampled negatives and in the full catalogue. Metrics of ranks are in metrics.py.

Nothing here is of users x items: the full catalogue is scored in tiles of TILE x TILE that stay in a core's cache, and
only counts leave a tile. What is compared comes from products of one shape with no edges, so that items of equal vectors
have scores of equal bits wherever they stand, and a tie is a tie.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.data import Clicks, Dataset, Targets, histories
from ttt4rec_jax.metrics import Ranks

PROTOCOLS = ("sampled", "full")
TILE = 512  # users, and items, that are scored at once; counts of three kinds up to it fit one int32
NEGATIVES_AT_ONCE = 32  # of each user; more would leave the cache
SEEN_AT_ONCE = 32  # clicks of each user
HISTORIES_AT_ONCE = 4  # of a model that scores pairs of history and candidate
EXACT = jax.lax.Precision.HIGHEST  # an accelerator's faster products would round scores to ties


class NonFiniteScoresError(ArithmeticError):
    """A model scored a candidate with NaN: its ranks would mean nothing."""


def compare(score_BxC, target_B, counted):
    """How many of up to TILE scores are [greater than, equal to, not comparable with] the target's: [B] each.

    counted: which scores take part, broadcast to [B, C]. One pass over the scores: the three counts share a sum's bits.
    """
    target_Bx1 = target_B[:, None]
    not_greater = jnp.where(score_BxC == target_Bx1, 1 << 10, jnp.where(score_BxC < target_Bx1, 0, 1 << 20))
    kind_BxC = jnp.where(score_BxC > target_Bx1, 1, not_greater)
    total_B = jnp.where(counted, kind_BxC, 0).sum(1)
    return total_B & 1023, (total_B >> 10) & 1023, total_B >> 20


def item_tiles(num_items: int):
    """All items, [N, TILE]: item i stands at i - 1 of [N * TILE]; places beyond the last item repeat it."""
    tiles = -(-num_items // TILE)
    return jnp.minimum(1 + jnp.arange(tiles * TILE), num_items).reshape(tiles, TILE)


def best_interest(interests_BxKxD, score):
    """The greatest of each interest's scores: score(user vectors [B, D]) -> [...], maximum over the K interests."""
    return functools.reduce(jnp.maximum, (score(interests_BxKxD[:, k]) for k in range(interests_BxKxD.shape[1])))


def compare_sampled(score, target_B, negatives_BxC):
    """(greater, ties, NaNs) [B] of the target among the negatives. score: candidates [B, C] -> scores [B, C]."""
    B, C = negatives_BxC.shape
    pieces = -(-C // NEGATIVES_AT_ONCE)
    width = -(-C // pieces)
    padded_PxBxC = jnp.pad(negatives_BxC, ((0, 0), (0, pieces * width - C))).reshape(B, pieces, width).swapaxes(0, 1)

    def piece(negatives_BxC):
        score_BxC = score(jnp.concatenate([target_B[:, None], negatives_BxC], 1))
        return compare(score_BxC[:, 1:], score_BxC[:, 0], negatives_BxC > 0)

    return jax.tree.map(lambda x: x.sum(0), jax.lax.map(piece, padded_PxBxC))


def compare_full(score, tile_NxC, target_score_B, clicks: Clicks, positions_B, users_B, num_items: int):
    """(greater, ties, NaNs, others) [B] of the target in the catalogue less the items clicked before it.

    score: a tile of the catalogue (item vectors [C, D], or items [C]) -> scores [B, C]; tile_NxC: all tiles, [N, C, ...].
    A target that was clicked before stays a candidate. What is to be left out is counted in each tile and taken off, at
    the target's own position too: a mask of users x items would cost more than the products.
    """
    start_B = clicks.starts[users_B]
    pieces = (positions_B - start_B).max() // SEEN_AT_ONCE + 1

    def tile(counts, first_and_tile):
        first, tile_C = first_and_tile
        score_BxC = score(tile_C)
        greater, ties, nans = compare(score_BxC, target_score_B, first + jnp.arange(TILE) <= num_items)

        def leave_out(piece, left_out):
            position_BxS = start_B[:, None] + piece * SEEN_AT_ONCE + jnp.arange(SEEN_AT_ONCE)
            place_BxS = clicks.items[position_BxS] - first
            is_here = (position_BxS <= positions_B[:, None]) & (place_BxS >= 0) & (place_BxS < TILE)
            is_here &= clicks.is_first[position_BxS]
            score_BxS = jnp.take_along_axis(score_BxC, jnp.clip(place_BxS, 0, TILE - 1), 1)
            greater, ties, _ = compare(score_BxS, target_score_B, is_here)
            return jax.tree.map(jnp.add, left_out, (greater, ties, is_here.sum(1)))

        out_greater, out_ties, out = jax.lax.fori_loop(0, pieces, leave_out, (zeros,) * 3)
        return jax.tree.map(jnp.add, counts, (greater - out_greater, ties - out_ties, nans, -out)), None

    first_N = 1 + TILE * jnp.arange(len(tile_NxC))
    zeros = jnp.zeros_like(positions_B)
    return jax.lax.scan(tile, (zeros, zeros, zeros, zeros + num_items), (first_N, tile_NxC))[0]


class Scores(NamedTuple):
    """How a batch of histories scores candidates [B, C], the tiles of the catalogue, and its targets [B]."""

    candidates: Callable
    tile: Callable
    targets: Callable


def separable_scores(model, history_BxL, length_B, item_NxCxD) -> Scores:
    """Products of user vectors and the vectors of the tiles' items."""
    user_BxKxD, item_vectors_VxD = model.encode(history_BxL, length_B), item_NxCxD.reshape(-1, item_NxCxD.shape[-1])

    def candidates(items_BxC):
        # no batched product: at the edges of odd sizes it gives equal vectors scores that differ in the last bit
        item_BxCxD = item_vectors_VxD[jnp.maximum(items_BxC - 1, 0)]
        return best_interest(user_BxKxD, lambda user_BxD: (user_BxD[:, None] * item_BxCxD).sum(-1))

    def tile(item_CxD):
        return best_interest(user_BxKxD, lambda user_BxD: jnp.matmul(user_BxD, item_CxD.T, precision=EXACT))

    def targets(target_B):  # by a product of a tile's shape, so that a tie is a tie
        target_BxD = item_vectors_VxD[target_B - 1]
        return jnp.diagonal(tile(jnp.pad(target_BxD, ((0, TILE - len(target_BxD)), (0, 0)))))

    return Scores(candidates, tile, targets)


def joint_scores(model, history_BxL, length_B, item_NxC) -> Scores:
    """Scores of pairs, HISTORIES_AT_ONCE histories at a time, so that memory stays bounded."""

    def score(items):
        def some(history_length_items):
            history, length, items = history_length_items
            return model.score(history[None], length[None], items[None])[0]

        items_BxC = jnp.broadcast_to(items, (len(length_B), items.shape[-1]))
        return jax.lax.map(some, (history_BxL, length_B, items_BxC), batch_size=HISTORIES_AT_ONCE)

    return Scores(score, score, lambda target_B: score(target_B[:, None])[:, 0])


def rank_targets(model, clicks: Clicks, targets: Targets, num_items: int, max_len: int, protocols=PROTOCOLS):
    """Ranks of M batches of targets, one batch at a time: {protocol: (greater, ties, others) [M, B]}, and NaNs among scores.

    targets: arrays with leading axes [M, B], B at most TILE; cheapest if histories of like length share a batch.
    """
    is_separable = hasattr(model, "encode")
    item_NxC = item_tiles(num_items)
    tiles = jax.lax.map(model.item_vectors, item_NxC) if is_separable else item_NxC

    def batch(targets):
        positions_B, users_B, negatives_BxC = targets
        score = separable_scores if is_separable else joint_scores
        scores, target_B = score(model, *histories(clicks, positions_B, users_B, max_len), tiles), clicks.items[positions_B]
        ranks, nans = {}, jnp.zeros((), jnp.int32)
        if "sampled" in protocols:
            greater, ties, nan = compare_sampled(scores.candidates, target_B, negatives_BxC)
            ranks["sampled"] = greater, ties, jnp.full_like(greater, negatives_BxC.shape[1])
            nans += nan.sum()
        if "full" in protocols:
            found = compare_full(scores.tile, tiles, scores.targets(target_B), clicks, positions_B, users_B, num_items)
            greater, ties, nan, others = found
            ranks["full"] = greater, ties, others
            nans += nan.sum()
        return ranks, nans

    return jax.lax.map(batch, targets)


class Evaluator:
    """Ranks the targets of a data set's evaluation sets with any parameters of one model; compiled when made."""

    def __init__(self, graphdef, params, dataset: Dataset, clicks: Clicks, max_len: int, protocols: dict | None = None):
        """protocols: {name of a set: the evaluations made of it}, all of them if not given."""
        sets = {"validation": dataset.validation, "test": dataset.test}
        most = max(len(targets.positions) for targets in sets.values())
        rows = min(TILE, most)
        batches = -(-most // rows)  # the same for both sets, so that one program serves both
        # a batch's longest history says how much it costs to leave out what was seen
        seen = {name: targets.positions - dataset.offsets[targets.users] for name, targets in sets.items()}
        self.order = {name: np.argsort(lengths, kind="stable") for name, lengths in seen.items()}

        def split(x, order):
            filler = np.repeat(x[order[:1]], batches * rows - len(x), 0)
            return jnp.asarray(np.concatenate([x[order], filler]).reshape(batches, rows, *x.shape[1:]))

        self.clicks = clicks
        self.targets = {name: Targets(*(split(x, self.order[name]) for x in targets)) for name, targets in sets.items()}

        def rank(params, clicks, targets, protocols=PROTOCOLS):
            return rank_targets(nnx.merge(graphdef, params), clicks, targets, dataset.num_items, max_len, protocols)

        self.rank = rank
        self.protocols = protocols or dict.fromkeys(sets, PROTOCOLS)
        arguments = params, clicks, self.targets["test"]
        programs = set(self.protocols.values())
        self._compiled = {p: jax.jit(functools.partial(rank, protocols=p)).lower(*arguments).compile() for p in programs}

    def __call__(self, params, name: str) -> dict[str, Ranks]:
        """{protocol: Ranks} of the targets of "validation" or "test". Raises NonFiniteScoresError."""
        ranks, nans = self._compiled[self.protocols[name]](params, self.clicks, self.targets[name])
        if np.asarray(nans).any():
            raise NonFiniteScoresError("the model scores a candidate with NaN")
        order = self.order[name]
        place = np.argsort(order)  # where the batches hold the set's first target, its second, ...
        return {p: Ranks(*(np.asarray(x, np.int64).reshape(-1)[place] for x in ranks[p])) for p in ranks}
