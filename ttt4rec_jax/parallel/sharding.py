"""The placement of arrays on several devices. The only module that names mesh axes.

RunMesh: the runs of a sweep, or one run on one device. Each device trains its own runs
independently. DeviceMesh (--mesh=data:4,model:2): one run on many devices. Batches are split over
`data`; the item table and the optimizer's moments of it are split by rows over `model`; everything
else is replicated. XLA's partitioner does the rest: a row is looked up on the device that holds it,
and the gradients of a batch's parts are summed.

Arrays that leave a mesh (`unstack`, `gather`) have the item table's original number of rows, so
that a checkpoint does not depend on the mesh that wrote it.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from data_prep.settings import UserError

RUNS = PartitionSpec("runs")
SHARED = PartitionSpec()
DATA = "data"
MODEL = "model"
ROWS = PartitionSpec(DATA)
TILES = PartitionSpec(MODEL)
TABLE = "embedding"

Tree = Any  # a pytree of arrays


def is_table(path: Any) -> bool:
    """Return whether a leaf of a training state belongs to the item table.

    It is "embedding" at the top level of the parameters, or of a copy that the optimizer keeps.
    """
    return [key for key in path if isinstance(key, DictKey)] == [DictKey(TABLE)] == list(path[-1:])


class Mesh(Protocol):
    """The interface of both meshes, as training and evaluation use it.

    runs: the number of stacked runs; size: the number of devices over which they are spread; data,
    model: the sizes of a DeviceMesh's axes, 1 for a RunMesh. Specs are RUNS (a stacked tree) and
    SHARED.
    """

    runs: int
    size: int
    data: int
    model: int

    def for_params(self, params_R: Tree) -> Self:
        """Return the mesh for runs with these parameters."""

    def place(self, tree: Tree, spec: PartitionSpec) -> Any:
        """Put a tree on the devices: split if it is stacked, a copy on each if it is shared."""

    def shapes(self, tree_R: Tree, spec: PartitionSpec) -> Any:
        """Return the shapes and shardings of `place`'s result, to compile ahead of time."""

    def map(self, function: Callable, in_specs: tuple, out_specs: Any) -> Callable:
        """Return a function that runs `function` on each device with its part of the arguments."""

    def unstack(self, tree_R: Tree, r: int) -> Any:
        """Return run r's part of a stacked tree, on the host if the tree is spread over devices."""

    def gather(self, tree: Tree) -> Any:
        """Return a placed tree in the form in which it is saved."""

    def batch(self, tree: Tree) -> Any:
        """Constrain a batch's arrays, inside a program, to the devices that process their rows."""

    def process_rows(self, batch_size: int) -> slice:
        """Return the rows of a batch that the devices of this process process."""

    def place_rows(self, tree: Tree, spec: PartitionSpec, batch_size: int) -> Any:
        """Put this process's rows [1 or R, B, ...] of a batch, made on the host, on its devices."""

    def map_tiles(self, function: Callable, tile_NxC: Tree) -> Any:
        """Return function(tile_NxC) of catalogue tiles [N, C, ...], on the tiles' devices."""

    def reduce_tiles(self, function: Callable, tiles: tuple, rows: tuple, known: tuple) -> Any:
        """Return the sums of counts [B], and the best (scores, items) [B, k], over all tiles."""


class RunMesh:
    """Stacked runs, spread evenly over as many devices as possible.

    Each device trains its runs independently. The methods are described in Mesh.
    """

    data = 1
    model = 1

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.size = 1 if runs == 1 else math.gcd(runs, jax.local_device_count())
        if self.size > 1:
            devices = jax.local_devices()[: self.size]
            axis_types = (AxisType.Auto,)
            self._mesh = jax.make_mesh(
                (self.size,), ("runs",), axis_types=axis_types, devices=devices
            )

    def for_params(self, params_R: Tree) -> Self:
        return self

    def place(self, tree: Tree, spec: PartitionSpec) -> Any:
        if self.size == 1:
            return jax.device_put(tree, jax.local_devices()[0])
        return jax.device_put(tree, NamedSharding(self._mesh, spec))

    def shapes(self, tree_R: Tree, spec: PartitionSpec) -> Any:
        sharding = None if self.size == 1 else NamedSharding(self._mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree_R
        )

    def map(self, function: Callable, in_specs: tuple, out_specs: Any) -> Callable:
        if self.size == 1:
            return function
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def unstack(self, tree_R: Tree, r: int) -> Any:
        return jax.tree.map(lambda x: x[r], tree_R if self.size == 1 else jax.device_get(tree_R))

    def gather(self, tree: Tree) -> Any:
        return tree

    def batch(self, tree: Tree) -> Any:
        return tree

    def process_rows(self, batch_size: int) -> slice:
        return slice(None)

    def place_rows(self, tree: Tree, spec: PartitionSpec, batch_size: int) -> Any:
        return self.place(tree, spec)

    def map_tiles(self, function: Callable, tile_NxC: Tree) -> Any:
        return function(tile_NxC)

    def reduce_tiles(self, function: Callable, tiles: tuple, rows: tuple, known: tuple) -> Any:
        return function(*tiles, *rows, *known)


ONE_DEVICE = RunMesh(1)


class DeviceMesh:
    """All devices of all processes as data x model, for one run.

    The methods are described in Mesh. rows: the number of rows of the run's item table, set by
    `for_params`; `place` pads them to a multiple of `model`, and `gather` removes the padding.
    Raises UserError if the number of devices is different.
    """

    runs = 1
    size = 1

    def __init__(self, data: int, model: int) -> None:
        self.data = data
        self.model = model
        if data * model != jax.device_count():
            raise UserError(
                f"--mesh=data:{data},model:{model} takes {data * model} devices, "
                f"found {jax.device_count()} ({jax.default_backend()}); give a mesh of that many "
                "(on a CPU, the environment variable JAX_NUM_CPU_DEVICES sets their number)"
            )
        self._mesh = jax.make_mesh((data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)
        self.rows = 0

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def for_params(self, params_R: Tree) -> Self:
        tables = [x for path, x in jax.tree.leaves_with_path(params_R) if is_table(path)]
        mesh = copy.copy(self)
        mesh.rows = tables[0].shape[1] if tables else 0
        return mesh

    def _of_leaf(self, path: Any, x: Any, spec: PartitionSpec) -> tuple[NamedSharding, int]:
        """Return a leaf's sharding, and its number of padding rows (axis 1 of stacked tables)."""
        if spec == SHARED or not is_table(path):
            return self._sharding(), 0
        return self._sharding(None, MODEL), -x.shape[1] % self.model

    def place(self, tree: Tree, spec: PartitionSpec) -> Any:
        """Put a tree on the devices: the tables of stacked trees by rows, the rest replicated."""

        def put(path: Any, x: Any) -> jax.Array:
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(path, jax.random.key_data(x)))
            sharding, padding = self._of_leaf(path, x, spec)
            if padding:
                x = np.pad(np.asarray(x), ((0, 0), (0, padding), (0, 0)))
            if jax.process_count() > 1:
                # every process has the whole array and puts its devices' parts on them
                whole = np.asarray(x)
                return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)
            return jax.device_put(x, sharding)

        return jax.tree.map_with_path(put, tree)

    def shapes(self, tree_R: Tree, spec: PartitionSpec) -> Any:
        def shape_of(path: Any, x: Any) -> jax.ShapeDtypeStruct:
            sharding, padding = self._of_leaf(path, x, spec)
            shape = (x.shape[0], x.shape[1] + padding, *x.shape[2:]) if padding else x.shape
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

        return jax.tree.map_with_path(shape_of, tree_R)

    def map(self, function: Callable, in_specs: tuple, out_specs: Any) -> Callable:
        """Return the function with its results constrained to the shardings of `place`."""

        def placed(*arguments: Any) -> Any:
            def constrain(path: Any, x: jax.Array) -> jax.Array:
                axes = (None, MODEL) if out_specs == RUNS and is_table(path) else ()
                return jax.lax.with_sharding_constraint(x, self._sharding(*axes))

            return jax.tree.map_with_path(constrain, function(*arguments))

        return placed

    def gather(self, tree: Tree) -> Any:
        """Return a stacked tree on the host of every process, without its tables' padding rows."""
        replicate = jax.jit(lambda x: x, out_shardings=self._sharding())

        def whole(path: Any, x: jax.Array) -> np.ndarray:
            # one after the other: simultaneous exchanges might run in different orders in
            # different processes
            is_here = x.is_fully_addressable or x.is_fully_replicated
            array = np.asarray(x if is_here else replicate(x))
            return array[:, : self.rows] if is_table(path) else array

        return jax.tree.map_with_path(whole, tree)

    def unstack(self, tree_R: Tree, r: int) -> Any:
        return jax.tree.map(lambda x: x[r], self.gather(tree_R))

    def batch(self, tree: Tree) -> Any:
        def split(x: jax.Array) -> jax.Array:
            return jax.lax.with_sharding_constraint(x, self._sharding(DATA))

        return jax.tree.map(split, tree)

    def process_rows(self, batch_size: int) -> slice:
        if jax.process_count() == 1:
            return slice(None)
        held = self._sharding(DATA).addressable_devices_indices_map((batch_size,)).values()
        spans = [rows[0].indices(batch_size)[:2] for rows in held if rows is not None]
        return slice(min(first for first, _ in spans), max(stop for _, stop in spans))

    def place_rows(self, tree: Tree, spec: PartitionSpec, batch_size: int) -> Any:
        sharding = self._sharding(None, DATA)

        def put(x: Any) -> jax.Array:
            if jax.process_count() == 1:
                return jax.device_put(x, sharding)
            shape = (1, batch_size, *x.shape[2:])
            return jax.make_array_from_process_local_data(sharding, np.asarray(x), shape)

        return jax.tree.map(put, tree)

    def map_tiles(self, function: Callable, tile_NxC: Tree) -> Any:
        return self._by_device(function, (TILES,), TILES)(tile_NxC)

    def reduce_tiles(self, function: Callable, tiles: tuple, rows: tuple, known: tuple) -> Any:
        def summed(*arguments: Any) -> Any:
            counts, best = function(*arguments)
            counts = jax.tree.map(lambda x: jax.lax.psum(x, MODEL), counts)
            # devices are in the order of their tiles: of equal scores, the first stays the first
            scores, items = (jax.lax.all_gather(x, MODEL, axis=1, tiled=True) for x in best)
            score_Bxk, index_Bxk = jax.lax.top_k(scores, best[0].shape[1])
            return counts, (score_Bxk, jnp.take_along_axis(items, index_Bxk, 1))

        specs = (TILES,) * len(tiles) + (ROWS,) * len(rows) + (SHARED,) * len(known)
        return self._by_device(summed, specs, ROWS)(*tiles, *rows, *known)

    def _by_device(self, function: Callable, in_specs: tuple, out_specs: Any) -> Callable:
        """Return a function that runs `function` on each device with its part.

        XLA's partitioner is not used, since it might split a product whose results are compared.
        """
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )


def pad_to(order_B: jax.Array, multiple: int, filler: int) -> jax.Array:
    """Return order_B padded with `filler` to a multiple, so that devices get equal parts."""
    return jnp.pad(order_B, (0, -len(order_B) % multiple), constant_values=filler)
