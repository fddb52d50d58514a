"""Ranks of held-out targets: among sampled negatives and in the full catalogue. Metrics of ranks are in metrics.py.

Nothing here is of users x items: the full catalogue is scored in tiles of TILE x TILE that stay in
a core's cache, and only counts leave a tile. What is compared comes from products of one shape with
no edges, so that items of equal vectors have scores of equal bits wherever they stand, and a tie is
a tie.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.data.batches import Clicks, clicks_of, histories, lengths_read
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.metrics import Ranks
from ttt4rec_jax.parallel.sharding import ONE_DEVICE, RUNS, SHARED

PROTOCOLS = ("sampled", "full")
TILE = (
    512  # users, and items, that are scored at once; counts of three kinds up to it fit one int32
)
NEGATIVES_AT_ONCE = 32  # of each user; more would leave the cache
SEEN_AT_ONCE = 32  # clicks of each user
HISTORIES_AT_ONCE = 4  # of a model that scores pairs of history and candidate
BATCHES_AT_ONCE = 8  # that a dispatch ranks of data that stay on the host
EXACT = jax.lax.Precision.HIGHEST  # an accelerator's faster products would round scores to ties


class NonFiniteScoresError(ArithmeticError):
    """A model scored a candidate with NaN: its ranks would mean nothing."""


def compare(score_BxC, target_B, counted):
    """How many of up to TILE scores are [greater than, equal to, not comparable with] the target's: [B] each.

    counted: which scores take part, broadcast to [B, C]. One pass over the scores: the three counts
    share a sum's bits.
    """
    target_Bx1 = target_B[:, None]
    not_greater = jnp.where(
        score_BxC == target_Bx1, 1 << 10, jnp.where(score_BxC < target_Bx1, 0, 1 << 20)
    )
    kind_BxC = jnp.where(score_BxC > target_Bx1, 1, not_greater)
    total_B = jnp.where(counted, kind_BxC, 0).sum(1)
    return total_B & 1023, (total_B >> 10) & 1023, total_B >> 20


def item_tiles(num_items: int, multiple: int = 1):
    """All items, [N, TILE]: item i stands at i - 1 of [N * TILE]; places beyond the last item repeat it.

    multiple: what N divides by.
    """
    tiles = -(-num_items // (TILE * multiple)) * multiple
    return jnp.minimum(1 + jnp.arange(tiles * TILE), num_items).reshape(tiles, TILE)


def best_interest(interests_BxKxD, score):
    """The greatest of each interest's scores: score(user vectors [B, D]) -> [...], maximum over the K interests."""
    return functools.reduce(
        jnp.maximum, (score(interests_BxKxD[:, k]) for k in range(interests_BxKxD.shape[1]))
    )


def compare_sampled(score, target_B, negatives_BxC):
    """(greater, ties, NaNs) [B] of the target among the negatives. score: candidates [B, C] -> scores [B, C]."""
    B, C = negatives_BxC.shape
    pieces = -(-C // NEGATIVES_AT_ONCE)
    width = -(-C // pieces)
    padded_PxBxC = (
        jnp.pad(negatives_BxC, ((0, 0), (0, pieces * width - C)))
        .reshape(B, pieces, width)
        .swapaxes(0, 1)
    )

    def piece(negatives_BxC):
        score_BxC = score(jnp.concatenate([target_B[:, None], negatives_BxC], 1))
        return compare(score_BxC[:, 1:], score_BxC[:, 0], negatives_BxC > 0)

    return jax.tree.map(lambda x: x.sum(0), jax.lax.map(piece, padded_PxBxC))


def compare_full(
    kind, num_items: int, first_N, tile_NxC, users, target, positions_B, users_B, clicks: Clicks
):
    """(greater, ties, NaNs, others) [B] of the target in some tiles of the catalogue less the items clicked before it.

    kind: Products or Pairs; users, target: as they are to it; tile_NxC: the tiles [N, C, ...],
    whose first items are first_N. A target that was clicked before stays a candidate. What is to be
    left out is counted in each tile and taken off, at the target's own position too: a mask of
    users x items would cost more
    than the products.
    """
    target_score_B = kind.targets(users, target)
    start_B = clicks.starts[users_B]
    pieces = (positions_B - start_B).max() // SEEN_AT_ONCE + 1

    def tile(counts, first_and_tile):
        first, tile_C = first_and_tile
        score_BxC = kind.tile(users, tile_C)
        greater, ties, nans = compare(
            score_BxC, target_score_B, first + jnp.arange(TILE) <= num_items
        )

        def leave_out(piece, left_out):
            position_BxS = start_B[:, None] + piece * SEEN_AT_ONCE + jnp.arange(SEEN_AT_ONCE)
            place_BxS = clicks.items[position_BxS] - first
            is_here = (position_BxS <= positions_B[:, None]) & (place_BxS >= 0) & (place_BxS < TILE)
            is_here &= clicks.is_first[position_BxS]
            score_BxS = jnp.take_along_axis(score_BxC, jnp.clip(place_BxS, 0, TILE - 1), 1)
            greater, ties, _ = compare(score_BxS, target_score_B, is_here)
            return jax.tree.map(jnp.add, left_out, (greater, ties, is_here.sum(1)))

        out_greater, out_ties, out = jax.lax.fori_loop(0, pieces, leave_out, (zeros,) * 3)
        others = jnp.clip(num_items + 1 - first, 0, TILE) - out
        return jax.tree.map(
            jnp.add, counts, (greater - out_greater, ties - out_ties, nans, others)
        ), None

    zeros = jnp.zeros_like(positions_B)
    return jax.lax.scan(tile, (zeros,) * 4, (first_N, tile_NxC))[0]


class Products:
    """Scores as products of user vectors [B, K, D] and item vectors."""

    @staticmethod
    def tile(user_BxKxD, item_CxD):
        """Scores [B, C] of a tile's item vectors."""
        return best_interest(
            user_BxKxD, lambda user_BxD: jnp.matmul(user_BxD, item_CxD.T, precision=EXACT)
        )

    @staticmethod
    def candidates(user_BxKxD, item_BxCxD):
        """Scores [B, C] of each user's own candidates, by their vectors."""
        # no batched product: at the edges of odd sizes it gives equal vectors scores that differ in
        # the last bit
        return best_interest(user_BxKxD, lambda user_BxD: (user_BxD[:, None] * item_BxCxD).sum(-1))

    @staticmethod
    def targets(user_BxKxD, target_BxD):
        """Scores [B] of each user's target, by a product of a tile's shape, so that a tie is a tie."""
        return jnp.diagonal(
            Products.tile(user_BxKxD, jnp.pad(target_BxD, ((0, TILE - len(target_BxD)), (0, 0))))
        )


class Pairs:
    """Scores of pairs of a history and an item, HISTORIES_AT_ONCE histories at a time, so that memory stays bounded.

    users: (histories [B, L], lengths [B]).
    """

    def __init__(self, model):
        self.model = model

    def tile(self, users, items):
        """Scores [B, C] of items [C], or of each user's own [B, C]."""

        def some(history_length_items):
            history, length, items = history_length_items
            return self.model.score(history[None], length[None], items[None])[0]

        items_BxC = jnp.broadcast_to(items, (len(users[1]), items.shape[-1]))
        return jax.lax.map(some, (*users, items_BxC), batch_size=HISTORIES_AT_ONCE)

    candidates = tile

    def targets(self, users, target_B):
        """Scores [B] of each user's target."""
        return self.tile(users, target_B[:, None])[:, 0]


def item_vectors_of_tiles(model, item_NxC, mesh):
    """Item vectors [N, C, D] of the catalogue's tiles, on the devices that hold them."""
    if mesh.model == 1 or not hasattr(model, "vectors_of"):
        return jax.lax.map(model.item_vectors, item_NxC)
    rows = model.embedding[...][1:]
    more = item_NxC.size - len(rows)  # a look-up of all rows would gather the table on every device
    rows = jnp.pad(rows, ((0, more), (0, 0))) if more > 0 else rows[: item_NxC.size]
    return mesh.map_tiles(
        functools.partial(jax.lax.map, model.vectors_of), rows.reshape(*item_NxC.shape, -1)
    )


def rank_targets(
    model,
    clicks: Clicks,
    groups: dict[int, Targets],
    num_items: int,
    protocols=PROTOCOLS,
    mesh=ONE_DEVICE,
):
    """Ranks of M batches of targets, one batch at a time: {protocol: (greater, ties, others) [M, B]}, and NaNs among scores.

    groups: targets by the length that their histories are padded to, arrays with leading axes [M of
    the group, B], B at most TILE; cheapest if histories of like length share a batch. M counts the
    groups' batches in
    ascending length.
    """
    is_separable = hasattr(model, "encode")
    item_NxC = item_tiles(num_items, mesh.model)
    first_N = 1 + TILE * jnp.arange(len(item_NxC))
    tiles = item_vectors_of_tiles(model, item_NxC, mesh) if is_separable else item_NxC
    kind = Products if is_separable else Pairs(model)
    # a model that scores pairs looks up what it needs, wherever that lies
    psum_tiles = mesh.psum_tiles if is_separable else ONE_DEVICE.psum_tiles

    def candidates(items):
        """What `kind` takes for items."""
        return (
            tiles.reshape(item_NxC.size, -1)[jnp.maximum(items - 1, 0)] if is_separable else items
        )

    def batch(length: int, targets):
        positions_B, users_B, negatives_BxC = mesh.batch(targets)
        users = histories(clicks, positions_B, users_B, length)
        target_B = clicks.items[positions_B]
        users = model.encode(*users) if is_separable else users
        ranks = {}
        nans = jnp.zeros((), jnp.int32)
        if "sampled" in protocols:
            greater, ties, nan = compare_sampled(
                lambda x: kind.candidates(users, candidates(x)), target_B, negatives_BxC
            )
            ranks["sampled"] = greater, ties, jnp.full_like(greater, negatives_BxC.shape[1])
            nans += nan.sum()
        if "full" in protocols:
            count = functools.partial(compare_full, kind, num_items)
            rows = users, candidates(target_B), positions_B, users_B
            greater, ties, nan, others = psum_tiles(count, (first_N, tiles), rows, (clicks,))
            ranks["full"] = greater, ties, others
            nans += nan.sum()
        return ranks, nans

    found = [
        jax.lax.map(functools.partial(batch, length), group)
        for length, group in sorted(groups.items())
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def members_of(group: int, read, seen, lengths: tuple[int, ...]):
    """Which targets' histories are padded to the group's length, in ascending order of what they hold.

    read, seen: how many clicks of each are read, and how many there are: a batch's longest history
    says how much it costs to leave out what was seen.
    """
    members = np.flatnonzero(np.searchsorted(lengths, read) == group)
    return members[np.argsort(seen[members], kind="stable")]


class Evaluator:
    """Ranks the targets of a data set's evaluation sets with any parameters of one model; compiled when made.

    Of stacked runs, each device ranks its own with a core of its own: `of_runs`.
    """

    def __init__(
        self,
        graphdef,
        params,
        dataset: Dataset,
        clicks: Clicks | None,
        max_len: int,
        protocols: dict | None = None,
        mesh=None,
    ):
        """params: one run's, or their shapes. protocols: {name of a set: the evaluations made of it}, all if not given.

        clicks: on the device; None to hand over, batch by batch, those that are needed, for data
        that stay on the host.
        mesh: where the runs lie, as sharding.py has them; one run on one device if not given.
        """
        self.dataset = dataset
        self.clicks = clicks
        self.sets = {"validation": dataset.validation, "test": dataset.test}
        most = max(len(targets.positions) for targets in self.sets.values())
        self.mesh = mesh = mesh or ONE_DEVICE
        rows = min(TILE, most + -most % mesh.data)
        seen = {
            name: targets.positions - dataset.offsets[targets.users]
            for name, targets in self.sets.items()
        }
        lengths = (
            lengths_read(max_len) if hasattr(nnx.merge(graphdef, params), "encode") else (max_len,)
        )
        # where the batches of all groups, one after the other, hold each target
        self.place = {name: np.zeros(len(counts), int) for name, counts in seen.items()}
        # {set: {length: its batches [M, B] of indices into the set}}
        self.batches = {name: {} for name in self.sets}
        self.at_once = {}
        first = 0
        for group, length in enumerate(lengths):
            members = {
                name: members_of(group, np.minimum(counts, max_len), counts, lengths)
                for name, counts in seen.items()
            }
            batches = -(
                -max(map(len, members.values())) // rows
            )  # the same for both sets, so that one program serves both
            at_once = batches if clicks is not None else max(min(BATCHES_AT_ONCE, batches), 1)
            batches += -batches % max(at_once, 1)
            for name in self.sets if batches else ():
                of_set = members[name]
                self.batches[name][length] = np.resize(
                    of_set if len(of_set) else 0, (batches, rows)
                )
                self.place[name][of_set] = first + np.arange(len(of_set))
            first += batches * rows
            self.at_once[length] = at_once
        if clicks is None:
            self.capacity = {
                length: self._capacity(length, seen) for length in self.batches["test"]
            }
        else:
            self.clicks = mesh.place(clicks, SHARED)
            self.targets = {name: mesh.place(self._groups(name), SHARED) for name in self.sets}

        def rank(params, clicks, groups, protocols=PROTOCOLS):
            return rank_targets(
                nnx.merge(graphdef, params), clicks, groups, dataset.num_items, protocols, mesh
            )

        self.rank = rank
        self.protocols = protocols or dict.fromkeys(self.sets, PROTOCOLS)
        params_R = mesh.shapes(
            jax.tree.map(lambda x: jax.ShapeDtypeStruct((mesh.runs, *x.shape), x.dtype), params),
            RUNS,
        )

        def compiled(protocols, clicks, groups):
            def of_runs(params_R, clicks, groups):
                return jax.lax.map(lambda params: rank(params, clicks, groups, protocols), params_R)

            program = jax.jit(mesh.map(of_runs, (RUNS, SHARED, SHARED), RUNS))
            return program.lower(params_R, clicks, groups).compile()

        # one program for each kind of dispatch: what is asked, of histories of which lengths
        self.compiled = {
            (asked, tuple(groups)): compiled(asked, clicks, groups)
            for clicks, groups in self._kinds()
            for asked in set(self.protocols.values())
        }

    def _groups(self, name: str) -> dict[int, Targets]:
        """All batches of a set by the length that their histories are padded to."""
        return {
            length: Targets(*(x[batch] for x in self.sets[name]))
            for length, batch in self.batches[name].items()
        }

    def _capacity(self, length: int, seen: dict[str, np.ndarray]) -> int:
        """How many clicks the dispatches of a group hold at most."""
        clicks = [
            (seen[name][batches[length]] + 1).sum(1) for name, batches in self.batches.items()
        ]
        return max(int(of_set.reshape(-1, self.at_once[length]).sum(1).max()) for of_set in clicks)

    def _packed(self, name: str, length: int, batch_MxB):
        """(clicks, groups) of some batches, with only what they need of the data."""
        targets = Targets(*(x[batch_MxB] for x in self.sets[name]))
        clicks, positions = clicks_of(
            self.dataset, targets.positions.ravel(), targets.users.ravel(), self.capacity[length]
        )
        users = np.arange(batch_MxB.size, dtype=np.int32)
        packed = Targets(
            positions.reshape(batch_MxB.shape), users.reshape(batch_MxB.shape), targets.negatives
        )
        return self.mesh.place((clicks, {length: packed}), SHARED)

    def _dispatches(self, name: str):
        """(clicks, groups) of each dispatch that ranks a set, in order."""
        if self.clicks is not None:
            yield self.clicks, self.targets[name]
            return
        for length, batches in self.batches[name].items():
            for first in range(0, len(batches), self.at_once[length]):
                yield self._packed(name, length, batches[first : first + self.at_once[length]])

    def _kinds(self):
        """One dispatch of each kind."""
        if self.clicks is not None:
            return [(self.clicks, self.targets["test"])]
        return [
            self._packed("test", length, b[: self.at_once[length]])
            for length, b in self.batches["test"].items()
        ]

    def __call__(self, params, name: str) -> dict[str, Ranks]:
        """{protocol: Ranks} of the targets of "validation" or "test". Raises NonFiniteScoresError."""
        (ranks,) = self.of_runs(jax.tree.map(lambda x: x[None], params), name)
        if isinstance(ranks, NonFiniteScoresError):
            raise ranks
        return ranks

    def of_runs(self, params_R, name: str) -> list[dict[str, Ranks] | NonFiniteScoresError]:
        """What __call__ gives or raises, of every run of stacked parameters."""
        asked = self.protocols[name]
        parts = []
        for clicks, groups in self._dispatches(name):
            parts.append(self.compiled[asked, tuple(groups)](params_R, clicks, groups))
            jax.block_until_ready(
                parts[-2:-1]
            )  # one works while the next is made, and no more than that wait
        ranks, nans_R = jax.tree.map(
            lambda *found: np.concatenate(found, 1), *jax.device_get(parts)
        )
        place = self.place[name]

        def of_run(r: int):
            if nans_R[r].any():
                return NonFiniteScoresError("the model scores a candidate with NaN")
            return {
                p: Ranks(*(x[r].reshape(-1)[place].astype(np.int64) for x in found))
                for p, found in ranks.items()
            }

        return [of_run(r) for r in range(len(nans_R))]
