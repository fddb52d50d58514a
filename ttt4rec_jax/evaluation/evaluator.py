"""Rank the evaluation sets of a data set under any parameters of one model."""

import functools
from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import numpy as np
from flax import nnx

from ttt4rec_jax.data.clicks import Clicks, clicks_of, lengths_read
from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.data.time_gaps import click_codes
from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.evaluation.grouping import group_by_length
from ttt4rec_jax.evaluation.ranking import Counts, rank_targets
from ttt4rec_jax.metrics import USUAL_PROTOCOLS, Ranks
from ttt4rec_jax.models import TwoTower
from ttt4rec_jax.parallel.sharding import ONE_DEVICE, RUNS, SHARED, Mesh

PyTree: TypeAlias = Any
Groups: TypeAlias = dict[int, Targets]  # targets [batches, rows] by the padded length
BATCHES_PER_DISPATCH = 8  # of data that stay on the host


class NonFiniteScoresError(ArithmeticError):
    """A model gave a candidate the score NaN, so that ranks would be meaningless."""


class Evaluator:
    """Ranks the targets of the evaluation sets with any parameters of one model.

    Nothing is compiled until `compile` is called or targets are ranked. With stacked runs
    (`of_runs`), each device ranks its own.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: PyTree,
        dataset: Dataset,
        clicks: Clicks | None,
        max_len: int,
        protocols: dict[str, tuple[str, ...]] | None = None,
        mesh: Mesh | None = None,
        list_length: int = 0,
    ):
        """Group the targets into batches and place them on the devices.

        Args:
            params: one run's parameters, or their shapes.
            clicks: on the device; None for data that stay on the host, from which each dispatch
                transfers what it needs.
            protocols: {set: the protocols by which it is ranked}; by default both.
            mesh: where the runs are; by default one run on one device.
            list_length: the number of best items that can be asked for beside the ranks.
        """
        self.list_length = min(list_length, dataset.num_items)
        self.graphdef = graphdef
        self._shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        self.dataset = dataset
        self.clicks = clicks
        self.mesh = mesh = mesh or ONE_DEVICE
        self.sets = {"validation": dataset.validation, "test": dataset.test}
        self.protocols = protocols or dict.fromkeys(self.sets, USUAL_PROTOCOLS)
        self._seen = {
            name: targets.positions - dataset.offsets[targets.users]
            for name, targets in self.sets.items()
        }
        largest = max(map(len, self._seen.values()))
        rows = min(ranking.TILE, largest + -largest % mesh.data)
        model = nnx.merge(graphdef, params)
        is_two_tower = isinstance(model, TwoTower)
        lengths = lengths_read(max_len) if is_two_tower else (max_len,)
        per_dispatch = None if clicks is not None else BATCHES_PER_DISPATCH
        self.grouping = group_by_length(self._seen, max_len, lengths, rows, per_dispatch)
        time = getattr(model, "reads_times", "none")
        on_host = clicks is None and time != "none"
        self._timed = click_codes(dataset, time) if on_host else None
        if clicks is not None:
            self.clicks = mesh.place(clicks, SHARED)
            self.targets = {name: mesh.place(self._groups(name), SHARED) for name in self.sets}

    def rank(
        self,
        params: PyTree,
        clicks: Clicks,
        groups: Groups,
        protocols: tuple[str, ...] = USUAL_PROTOCOLS,
        wants_lists: jax.Array | bool = False,
    ) -> tuple[dict[str, Counts], jax.Array, jax.Array]:
        """Return rank_targets' result for one run: the function that is compiled."""
        return rank_targets(
            nnx.merge(self.graphdef, params),
            clicks,
            groups,
            self.dataset.num_items,
            protocols,
            self.mesh,
            self.list_length if "full" in protocols else 0,
            wants_lists,
        )

    def compile(self) -> "Evaluator":
        """Compile all programs now, and return the evaluator."""
        _ = self.compiled
        return self

    @functools.cached_property
    def compiled(self) -> dict[tuple[tuple[str, ...], tuple[int, ...]], jax.stages.Compiled]:
        """The compiled program of each kind of dispatch: {(protocols, padded lengths): program}."""
        return {
            (protocols, tuple(groups)): self._compile(protocols, clicks, groups)
            for clicks, groups in self._dispatch_kinds()
            for protocols in set(self.protocols.values())
        }

    def _compile(
        self, protocols: tuple[str, ...], clicks: Clicks, groups: Groups
    ) -> jax.stages.Compiled:
        mesh = self.mesh

        def of_runs(params_R, clicks, groups, wants_lists):
            if not jax.tree.leaves(params_R):  # a model without parameters is one run
                ranked = self.rank(params_R, clicks, groups, protocols, wants_lists)
                return jax.tree.map(lambda x: x[None], ranked)
            return jax.lax.map(
                lambda params: self.rank(params, clicks, groups, protocols, wants_lists), params_R
            )

        def stacked(x):
            return jax.ShapeDtypeStruct((mesh.runs, *x.shape), x.dtype)

        program = jax.jit(mesh.map(of_runs, (RUNS, SHARED, SHARED, SHARED), RUNS))
        params_R = mesh.shapes(jax.tree.map(stacked, self._shapes), RUNS)
        return program.lower(params_R, clicks, groups, self._flag(False)).compile()

    def _flag(self, value: bool) -> jax.Array:
        return self.mesh.place(np.asarray(value), SHARED)

    def __call__(self, params: PyTree, name: str) -> dict[str, Ranks]:
        """Return {protocol: Ranks} of the targets of a set, "validation" or "test".

        Raises NonFiniteScoresError.
        """
        (ranks,) = self.of_runs(jax.tree.map(lambda x: x[None], params), name)
        if isinstance(ranks, NonFiniteScoresError):
            raise ranks
        return ranks

    def of_runs(self, params_R: PyTree, name: str) -> list[dict[str, Ranks] | NonFiniteScoresError]:
        ranked = self.of_runs_with_lists(params_R, name, wants_lists=False)
        return [one if isinstance(one, ArithmeticError) else one[0] for one in ranked]

    def of_runs_with_lists(
        self, params_R: PyTree, name: str, wants_lists: bool = True
    ) -> list[tuple[dict[str, Ranks], np.ndarray | None] | NonFiniteScoresError]:
        """Return what `of_runs` does, each with the best items of the full catalogue [T, k].

        0 is no item. None without the full catalogue, if list_length is 0, or if not wanted.
        """
        protocols = self.protocols[name]
        wants_lists = wants_lists and self.list_length > 0 and "full" in protocols
        flag = self._flag(wants_lists)
        parts: list[Any] = []
        for clicks, groups in self._dispatches(name):
            part = self.compiled[protocols, tuple(groups)](params_R, clicks, groups, flag)
            parts.append(part if wants_lists else part[:2])
            # the host prepares the next dispatch while the device ranks this one; none is queued
            jax.block_until_ready(parts[-2:-1])
        ranks, nans_RxM, *lists = jax.tree.map(
            lambda *xs: np.concatenate(xs, 1), *jax.device_get(parts)
        )
        slots = self.grouping.slots[name]

        def of_run(r):
            if nans_RxM[r].any():
                return NonFiniteScoresError("the model scores a candidate with NaN")
            of_protocols = {
                protocol: Ranks(*(x[r].reshape(-1)[slots].astype(np.int64) for x in counts))
                for protocol, counts in ranks.items()
            }
            best = [x[r].reshape(-1, self.list_length)[slots] for x in lists]
            return of_protocols, best[0] if best else None

        return [of_run(r) for r in range(len(nans_RxM))]

    # The dispatches of a set: all batches at once, or a few at a time with their clicks

    def _dispatches(self, name: str) -> Iterator[tuple[Clicks, Groups]]:
        """Yield the arguments of each dispatch that ranks a set, in order."""
        if self.clicks is not None:
            yield self.clicks, self.targets[name]
            return
        for length, batches in self.grouping.batches[name].items():
            count = self.grouping.per_dispatch[length]
            for first in range(0, len(batches), count):
                yield self._packed(name, length, batches[first : first + count])

    def _dispatch_kinds(self) -> list[tuple[Clicks, Groups]]:
        """Return the arguments of one dispatch of each kind."""
        if self.clicks is not None:
            return [(self.clicks, self.targets["test"])]
        return [
            self._packed("test", length, batches[: self.grouping.per_dispatch[length]])
            for length, batches in self.grouping.batches["test"].items()
        ]

    def _groups(self, name: str) -> Groups:
        """Return all batches of a set."""
        return {
            length: Targets(*(x[batches] for x in self.sets[name]))
            for length, batches in self.grouping.batches[name].items()
        }

    def _packed(self, name: str, length: int, batch_MxB: np.ndarray) -> tuple[Clicks, Groups]:
        """Return the arguments that rank some batches, with only the clicks that they need."""
        targets = Targets(*(x[batch_MxB] for x in self.sets[name]))
        clicks, positions = clicks_of(
            self.dataset,
            targets.positions.ravel(),
            targets.users.ravel(),
            self.capacity[length],
            self._timed,
        )
        users = np.arange(batch_MxB.size, dtype=np.int32)
        packed = Targets(
            positions.reshape(batch_MxB.shape), users.reshape(batch_MxB.shape), targets.negatives
        )
        return self.mesh.place((clicks, {length: packed}), SHARED)

    @functools.cached_property
    def capacity(self) -> dict[int, int]:
        """The maximum number of clicks in a dispatch of each padded length."""
        return {length: self._capacity(length) for length in self.grouping.batches["test"]}

    def _capacity(self, length: int) -> int:
        per_dispatch = self.grouping.per_dispatch[length]
        clicks = [
            (self._seen[name][batches[length]] + 1).sum(1)
            for name, batches in self.grouping.batches.items()
        ]
        return max(int(of_set.reshape(-1, per_dispatch).sum(1).max()) for of_set in clicks)
