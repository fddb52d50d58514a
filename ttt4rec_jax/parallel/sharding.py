"""Where arrays lie when there are several devices. The only module that names mesh axes.

RunMesh: the runs of a sweep, or one run on one device. Each device trains runs of its own and knows
of no other. DeviceMesh (--mesh=data:4,model:2): one run on many devices. Batches are split over
`data`; the item table, and what the optimiser keeps of it, by rows over `model`; everything else is
whole on every device. XLA's
partitioner does the rest: a row is looked up on the device that holds it, and the gradients of a
batch's parts are added up.

Trainer and Evaluator see one interface. What leaves a mesh (`run`, `gather`) has the table's own
number of rows, so that a checkpoint knows nothing of the mesh that wrote it.
"""

import copy
import math

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


def is_table(path) -> bool:
    """Whether a leaf of a training state is the item table, or what the optimiser keeps of it.

    That is: the parameter called "embedding" at the top level, in the parameters or in a copy of
    their tree.
    """
    return [key for key in path if isinstance(key, DictKey)] == [DictKey(TABLE)] == list(path[-1:])


class RunMesh:
    """Spreads stacked runs over the most devices that divide them evenly; each device trains its runs on its own."""

    data = model = 1

    def __init__(self, runs: int):
        self.runs = runs
        self.size = 1 if runs == 1 else math.gcd(runs, jax.local_device_count())
        if self.size > 1:
            devices = jax.local_devices()[: self.size]
            self._mesh = jax.make_mesh(
                (self.size,), ("runs",), axis_types=(AxisType.Auto,), devices=devices
            )

    def of(self, params_R) -> "RunMesh":
        """The mesh for runs with these parameters."""
        return self

    def place(self, tree, spec: PartitionSpec):
        """The tree on the devices: split along its first axis (RUNS), or whole on each (SHARED)."""
        return jax.device_put(
            tree, jax.local_devices()[0] if self.size == 1 else NamedSharding(self._mesh, spec)
        )

    def shapes(self, tree_R, spec: PartitionSpec):
        """What `place` gives, as shapes, for compiling ahead."""
        sharding = None if self.size == 1 else NamedSharding(self._mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree_R
        )

    def map(self, function, in_specs: tuple, out_specs):
        """The function run on each device with its part of the arguments."""
        if self.size == 1:
            return function
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def run(self, tree, r: int):
        """Run r's part of a stacked tree, on the host if it is spread over devices."""
        return jax.tree.map(lambda x: x[r], tree if self.size == 1 else jax.device_get(tree))

    def gather(self, tree):
        """What is to be saved of a placed tree."""
        return tree

    def batch(self, tree):
        """A batch, inside a program, where its rows are to be worked on."""
        return tree

    def own_rows(self, batch_size: int) -> slice:
        """Which rows of a batch this process's devices work on."""
        return slice(None)

    def place_rows(self, tree, spec: PartitionSpec, batch_size: int):
        """This process's rows [1 or R, B, ...] of batches, made on the host, where they are worked on."""
        return self.place(tree, spec)

    def each_tile(self, function, tile_NxC):
        """function(tiles of the catalogue [N, C, ...]) -> [N, ...], where the tiles lie."""
        return function(tile_NxC)

    def sum_of_tiles(self, function, tiles: tuple, rows: tuple, known: tuple):
        """The sums [B] of function(*tiles, *rows, *known) over the catalogue's tiles, where tiles and a batch's rows lie.

        known: what every device has.
        """
        return function(*tiles, *rows, *known)


ONE_DEVICE = RunMesh(1)


class DeviceMesh:
    """All devices of all processes as data x model, for one run; interface as RunMesh's.

    rows: how many the run's table has, once `of` has been told; `place` pads them to a multiple of
    `model`, `gather` cuts them back. Raises UserError if there are not as many devices.
    """

    runs = size = 1

    def __init__(self, data: int, model: int):
        self.data = data
        self.model = model
        if data * model != jax.device_count():
            raise UserError(
                f"--mesh=data:{data},model:{model} takes {data * model} devices, found {jax.device_count()} "
                f"({jax.default_backend()}); give a mesh of as many (on a CPU, JAX_NUM_CPU_DEVICES sets how many there are)"
            )
        self._mesh = jax.make_mesh((data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)
        self.rows = 0

    def _sharding(self, *axes) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def of(self, params_R) -> "DeviceMesh":
        """The mesh for a run with these parameters."""
        mesh = copy.copy(self)
        mesh.rows = next(
            (x.shape[1] for path, x in jax.tree.leaves_with_path(params_R) if is_table(path)), 0
        )
        return mesh

    def _of_leaf(self, path, x, spec: PartitionSpec) -> tuple[NamedSharding, int]:
        """(where a leaf lies, how many rows it is padded by). Tables are stacked: rows are axis 1."""
        if spec == SHARED or not is_table(path):
            return self._sharding(), 0
        return self._sharding(None, MODEL), -x.shape[1] % self.model

    def place(self, tree, spec: PartitionSpec):
        """The tree on the devices: tables of a stacked tree (RUNS) by rows, everything else whole on each."""

        def put(path, x):
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(path, jax.random.key_data(x)))
            sharding, more = self._of_leaf(path, x, spec)
            if more:
                x = np.pad(np.asarray(x), ((0, 0), (0, more), (0, 0)))
            if (
                jax.process_count() > 1
            ):  # every process has the whole, and gives its devices their parts
                whole = np.asarray(x)
                return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)
            return jax.device_put(x, sharding)

        return jax.tree.map_with_path(put, tree)

    def shapes(self, tree_R, spec: PartitionSpec):
        """What `place` gives, as shapes, for compiling ahead."""

        def of(path, x):
            sharding, more = self._of_leaf(path, x, spec)
            shape = (x.shape[0], x.shape[1] + more, *x.shape[2:]) if more else x.shape
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

        return jax.tree.map_with_path(of, tree_R)

    def map(self, function, in_specs: tuple, out_specs):
        """The function, whose stacked results lie as `place` would lay them."""

        def placed(*arguments):
            def constrain(path, x):
                table = out_specs == RUNS and is_table(path)
                return jax.lax.with_sharding_constraint(
                    x, self._sharding(*((None, MODEL) if table else ()))
                )

            return jax.tree.map_with_path(constrain, function(*arguments))

        return placed

    def gather(self, tree):
        """A placed, stacked tree on the host of every process, without the rows that tables were padded by."""
        replicate = jax.jit(lambda x: x, out_shardings=self._sharding())

        def whole(path, x):
            # one after the other: exchanges that run at once might meet in another order in another
            # process
            x = np.asarray(x if x.is_fully_addressable or x.is_fully_replicated else replicate(x))
            return x[:, : self.rows] if is_table(path) else x

        return jax.tree.map_with_path(whole, tree)

    def run(self, tree, r: int):
        """The one run's part of a stacked tree, on the host."""
        return jax.tree.map(lambda x: x[r], self.gather(tree))

    def batch(self, tree):
        """Arrays whose first axis is a batch's, inside a program: split over `data`."""

        def split(x):
            return jax.lax.with_sharding_constraint(x, self._sharding(DATA))

        return jax.tree.map(split, tree)

    def own_rows(self, batch_size: int) -> slice:
        """Which rows of a batch this process's devices work on."""
        if jax.process_count() == 1:
            return slice(None)
        held = self._sharding(DATA).addressable_devices_indices_map((batch_size,)).values()
        spans = [rows.indices(batch_size)[:2] for (rows,) in held]
        return slice(min(first for first, _ in spans), max(stop for _, stop in spans))

    def place_rows(self, tree, spec: PartitionSpec, batch_size: int):
        """This process's rows [1, B, ...] of batches of batch_size, made on the host, split over `data`."""
        sharding = self._sharding(None, DATA)

        def put(x):
            if jax.process_count() == 1:
                return jax.device_put(x, sharding)
            return jax.make_array_from_process_local_data(
                sharding, np.asarray(x), (1, batch_size, *x.shape[2:])
            )

        return jax.tree.map(put, tree)

    def each_tile(self, function, tile_NxC):
        """function(tiles of the catalogue [N, C, ...]) -> [N, ...], on the devices that hold the tiles."""
        return self._by_device(function, (TILES,), TILES)(tile_NxC)

    def sum_of_tiles(self, function, tiles: tuple, rows: tuple, known: tuple):
        """The sums [B] of function(*tiles, *rows, *known) over the catalogue's tiles, where tiles and a batch's rows lie."""

        def summed(*arguments):
            return jax.tree.map(lambda x: jax.lax.psum(x, MODEL), function(*arguments))

        specs = (TILES,) * len(tiles) + (ROWS,) * len(rows) + (SHARED,) * len(known)
        return self._by_device(summed, specs, ROWS)(*tiles, *rows, *known)

    def _by_device(self, function, in_specs, out_specs):
        """The function, run on each device with its part: XLA's partitioner might split a product that is to be compared."""
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )


def pad_to(order_B, multiple: int, filler: int):
    """order_B with fillers behind, so that devices get equal parts."""
    return jnp.pad(order_B, (0, -len(order_B) % multiple), constant_values=filler)
