"""Ranks of held-out targets, among sampled negatives and in the full catalogue: pure JAX functions.

Memory never grows as users x items: the full catalogue is scored in tiles of TILE x TILE that stay
in a core's cache, and only counts leave a tile. Scores that are compared are computed by products
of one shape without remainders, so that items with equal vectors get bit-identical scores at any
position and ties are exact.
"""

import functools
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from ttt4rec_jax.data.clicks import Clicks, histories
from ttt4rec_jax.data.dataset import Targets
from ttt4rec_jax.evaluation.best import scan_best
from ttt4rec_jax.evaluation.counting import Counts, count_scores, rank_sampled
from ttt4rec_jax.metrics import USUAL_PROTOCOLS
from ttt4rec_jax.models import HasItemTable, TwoTower, over_interests, rule_of
from ttt4rec_jax.parallel.sharding import ONE_DEVICE, Mesh

TILE = 512  # users, and items, scored at once; counting.py counts up to TILE scores
SEEN_AT_ONCE = 32  # clicks of each user
HISTORIES_AT_ONCE = 4  # of a model that scores pairs
EXACT = jax.lax.Precision.HIGHEST  # an accelerator's faster products would round scores to ties

Model: TypeAlias = Any  # a module with `encode` and `item_vectors`, or with `score`
Users: TypeAlias = Any  # user vectors [B, K, D], or (histories [B, L], lengths [B])
Best: TypeAlias = tuple[jax.Array, jax.Array]  # scores and items [B, k]


class Scorer(Protocol):
    """How a kind of model scores users, given as `Users`, on items or on item vectors."""

    def tile(self, users: Users, items: jax.Array) -> jax.Array:
        """Return the scores [B, C] of a tile's items [C, ...]."""
        ...

    def candidates(self, users: Users, items: jax.Array) -> jax.Array:
        """Return the scores [B, C] of each user's own candidates [B, C, ...]."""
        ...

    def targets(self, users: Users, target: jax.Array) -> jax.Array:
        """Return the scores [B] of each user's target [B, ...]."""
        ...


class Products:
    """Scores as products of user vectors [B, K, D] and item vectors, by a model's interest rule."""

    def __init__(self, model: Model):
        self.rule = rule_of(model)

    def tile(self, user_BxKxD: jax.Array, item_CxD: jax.Array) -> jax.Array:
        """Return the scores [B, C] of a tile's item vectors."""

        def score(user_BxD: jax.Array) -> jax.Array:
            return jnp.matmul(user_BxD, item_CxD.T, precision=EXACT)

        return over_interests(user_BxKxD, score, self.rule)

    def items(self, user_BxKxD: jax.Array, item_VxD: jax.Array) -> jax.Array:
        """Return the scores [V, B] of item vectors, with the items as rows."""

        def score(user_BxD: jax.Array) -> jax.Array:
            return jnp.matmul(item_VxD, user_BxD.T, precision=EXACT)

        return over_interests(user_BxKxD, score, self.rule)

    def candidates(self, user_BxKxD: jax.Array, item_BxCxD: jax.Array) -> jax.Array:
        """Return the scores [B, C] of each user's own candidates, by their vectors."""

        def score(user_BxD: jax.Array) -> jax.Array:
            # a batched product of odd sizes has remainders, in which the scores of equal vectors
            # differ in the last bit
            return (user_BxD[:, None] * item_BxCxD).sum(-1)

        return over_interests(user_BxKxD, score, self.rule)

    def targets(self, user_BxKxD: jax.Array, target_BxD: jax.Array) -> jax.Array:
        """Return the scores [B] of each user's target, by a product with the shape of a tile."""
        tile_CxD = jnp.pad(target_BxD, ((0, TILE - len(target_BxD)), (0, 0)))
        return jnp.diagonal(self.tile(user_BxKxD, tile_CxD))


class Pairs:
    """Scores of pairs of a history and an item; users: (histories [B, L], lengths [B]).

    HISTORIES_AT_ONCE histories are scored at a time, so that memory stays bounded.
    """

    def __init__(self, model: Model):
        self.model = model

    def tile(self, users: Users, items: jax.Array) -> jax.Array:
        """Return the scores [B, C] of items [C], or of each user's own items [B, C]."""

        def score(history_length_items):
            history, length, items = history_length_items
            return self.model.score(history[None], length[None], items[None])[0]

        items_BxC = jnp.broadcast_to(items, (len(users[1]), items.shape[-1]))
        return jax.lax.map(score, (*users, items_BxC), batch_size=HISTORIES_AT_ONCE)

    candidates = tile

    def targets(self, users: Users, target_B: jax.Array) -> jax.Array:
        """Return the scores [B] of each user's target."""
        return self.tile(users, target_B[:, None])[:, 0]


def item_tiles(num_items: int, multiple: int = 1) -> jax.Array:
    """Return all items in tiles [N, TILE]: item i is at index i - 1 of the flattened tiles.

    The last tile is filled up with the last item. multiple: N is divisible by it.
    """
    tiles = -(-num_items // (TILE * multiple)) * multiple
    return jnp.minimum(1 + jnp.arange(tiles * TILE), num_items).reshape(tiles, TILE)


def item_vectors_of_tiles(model: Model, item_NxC: jax.Array, mesh: Mesh) -> jax.Array:
    """Return the item vectors [N, C, D] of the catalogue's tiles, on the devices that hold them."""
    if mesh.model == 1 or not isinstance(model, HasItemTable):
        return jax.lax.map(model.item_vectors, item_NxC)
    rows = model.embedding[...][1:]
    # slices, since a look-up of all rows would gather the table on every device
    more = item_NxC.size - len(rows)
    rows = jnp.pad(rows, ((0, more), (0, 0))) if more > 0 else rows[: item_NxC.size]
    return mesh.map_tiles(
        functools.partial(jax.lax.map, model.vectors_of), rows.reshape(*item_NxC.shape, -1)
    )


def rank_full(
    scorer: Scorer,
    num_items: int,
    k: int,
    first_N: jax.Array,
    tile_NxC: jax.Array,
    users: Users,
    target: jax.Array,
    positions_B: jax.Array,
    users_B: jax.Array,
    clicks: Clicks,
) -> tuple[Counts, Best]:
    """Return (greater, ties, NaNs, others, greater seen, equal seen) [B] of the target.

    They count the items of tiles of the catalogue. Also returns the k best candidates, (scores,
    items) [B, k], the best first; for k = 0 none.

    Items that the user clicked before the target are excluded; the target itself is a candidate
    even if it was clicked before. Excluded items are counted in each tile and subtracted, since a
    mask of users x items would cost more than the products; only for the best candidates, the
    excluded ones of a few tiles are masked.

    Args:
        first_N: the first item of each tile.
        tile_NxC: the tiles [N, C, ...], as the scorer takes items.
        users, target: as the scorer takes them.
        positions_B, users_B: the targets' flat positions and users.
    """
    target_score_B = scorer.targets(users, target)
    start_B = clicks.starts[users_B]
    pieces = (positions_B - start_B).max() // SEEN_AT_ONCE + 1
    target_item_B = clicks.items[positions_B]

    def clicked(piece, first):
        """Return the indices in a tile of some clicks [B, S], and which of them are there."""
        position_BxS = start_B[:, None] + piece * SEEN_AT_ONCE + jnp.arange(SEEN_AT_ONCE)
        index_BxS = clicks.items[position_BxS] - first
        is_here = (position_BxS <= positions_B[:, None]) & (index_BxS >= 0) & (index_BxS < TILE)
        return index_BxS, is_here & clicks.is_first[position_BxS]

    def tile(counts, first_and_tile):
        first, tile_C = first_and_tile
        score_BxC = scorer.tile(users, tile_C)
        is_item_C = first + jnp.arange(TILE) <= num_items
        greater, ties, nans = count_scores(score_BxC, target_score_B, is_item_C)

        def exclude(piece, excluded):
            index_BxS, is_here = clicked(piece, first)
            score_BxS = jnp.take_along_axis(score_BxC, jnp.clip(index_BxS, 0, TILE - 1), 1)
            # these include the target itself, whose tie with itself is subtracted as well
            greater, ties, _ = count_scores(score_BxS, target_score_B, is_here)
            return jax.tree.map(jnp.add, excluded, (greater, ties, is_here.sum(1)))

        seen_greater, seen_ties, seen = jax.lax.fori_loop(0, pieces, exclude, (zeros,) * 3)
        others = jnp.clip(num_items + 1 - first, 0, TILE) - seen
        of_tile = greater - seen_greater, ties - seen_ties, nans, others, seen_greater, seen_ties
        counts = jax.tree.map(jnp.add, counts, of_tile)
        if not k:
            return counts, None

        def mask(piece, is_candidate_BxC):
            index_BxS, is_here = clicked(piece, first)
            is_here &= index_BxS + first != target_item_B[:, None]
            row_Bx1 = jnp.arange(len(start_B))[:, None]
            return is_candidate_BxC.at[row_Bx1, jnp.where(is_here, index_BxS, TILE)].set(
                False, mode="drop"
            )

        is_candidate_BxC = jnp.broadcast_to(is_item_C, score_BxC.shape)
        is_candidate_BxC = jax.lax.fori_loop(0, pieces, mask, is_candidate_BxC)
        return counts, jnp.where(is_candidate_BxC, score_BxC, -jnp.inf)

    zeros = jnp.zeros_like(positions_B)
    if not k:
        none = jnp.zeros((len(zeros), 0)), jnp.zeros((len(zeros), 0), first_N.dtype)
        return jax.lax.scan(tile, (zeros,) * 6, (first_N, tile_NxC))[0], none
    return scan_best(tile, (zeros,) * 6, (first_N, tile_NxC), k, TILE)


def rank_targets(
    model: Model,
    clicks: Clicks,
    groups: dict[int, Targets],
    num_items: int,
    protocols: tuple[str, ...] = USUAL_PROTOCOLS,
    mesh: Mesh = ONE_DEVICE,
    k: int = 0,
    wants_lists: jax.Array | bool = False,
) -> tuple[dict[str, Counts], jax.Array, jax.Array]:
    """Return ranks of M batches of targets: {protocol: (greater, ties, others) [M, B]}, NaNs [M].

    "unfiltered", the full catalogue with seen items, needs "full" among the protocols.

    Also returns the k best items of the full catalogue [M, B, k] if they are wanted, otherwise 0.
    Both ways are in one program, and only the one that is asked for is computed.

    One batch is ranked at a time. NaNs: the number of scores that are NaN. groups: {padded length
    of the histories: targets, arrays with leading axes [M of the group, B]}, with B at most TILE.
    It is fastest if histories of similar length share a batch. The batches are in the order of the
    groups by ascending length.
    """
    is_two_tower = isinstance(model, TwoTower)
    item_NxC = item_tiles(num_items, mesh.model)
    first_N = 1 + TILE * jnp.arange(len(item_NxC))
    tiles = item_vectors_of_tiles(model, item_NxC, mesh) if is_two_tower else item_NxC
    scorer: Scorer = Products(model) if is_two_tower else Pairs(model)
    # a model that scores pairs looks up the rows that it needs on any device
    reduce_tiles = mesh.reduce_tiles if is_two_tower else ONE_DEVICE.reduce_tiles

    def as_scored(items):
        """Return what the scorer takes for items: vectors, or the items themselves."""
        if not is_two_tower:
            return items
        return tiles.reshape(item_NxC.size, -1)[jnp.maximum(items - 1, 0)]

    def batch(length, targets):
        positions_B, users_B, negatives_BxC = mesh.batch(targets)
        users = histories(clicks, positions_B, users_B, length)
        target_B = clicks.items[positions_B]
        users = model.encode(*users) if is_two_tower else users
        ranks = {}
        nans = jnp.zeros((), jnp.int32)
        best = jnp.zeros((len(users_B), k), jnp.int32)
        if "sampled" in protocols:
            greater, ties, nan = rank_sampled(
                lambda items: scorer.candidates(users, as_scored(items)), target_B, negatives_BxC
            )
            ranks["sampled"] = greater, ties, (negatives_BxC > 0).sum(1)
            nans += nan.sum()
        if "full" in protocols:
            rows = users, as_scored(target_B), positions_B, users_B

            def count(k):
                count = functools.partial(rank_full, scorer, num_items, k)
                counts, (scores, items) = reduce_tiles(count, (first_N, tiles), rows, (clicks,))
                return counts, jnp.where(scores > -jnp.inf, items, 0).astype(jnp.int32)

            if k:
                counts, best = jax.lax.cond(
                    wants_lists, lambda: count(k), lambda: (count(0)[0], best)
                )
            else:
                counts, _ = count(0)
            greater, ties, nan, others, seen_greater, seen_ties = counts
            ranks["full"] = greater, ties, others
            if "unfiltered" in protocols:  # the target's tie with itself is one of the seen
                all_others = jnp.full_like(others, num_items - 1)
                ranks["unfiltered"] = greater + seen_greater, ties + seen_ties - 1, all_others
            nans += nan.sum()
        return ranks, nans, best

    parts = [
        jax.lax.map(functools.partial(batch, length), group)
        for length, group in sorted(groups.items())
    ]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
