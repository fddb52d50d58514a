"""Where arrays lie when there are several devices. The only module that names mesh axes."""

import math

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

RUNS = PartitionSpec("runs")
SHARED = PartitionSpec()


class RunMesh:
    """Spreads stacked runs over the most devices that divide them evenly; each device trains its runs on its own."""

    def __init__(self, runs: int):
        self.size = math.gcd(runs, jax.local_device_count())
        devices = jax.local_devices()[: self.size]
        self._mesh = jax.make_mesh((self.size,), ("runs",), axis_types=(AxisType.Auto,), devices=devices)

    def place(self, tree, spec: PartitionSpec):
        """The tree on the devices: split along its first axis (RUNS), or whole on each (SHARED)."""
        return tree if self.size == 1 else jax.device_put(tree, NamedSharding(self._mesh, spec))

    def map(self, function, in_specs: tuple, out_specs):
        """The function run on each device with its part of the arguments."""
        if self.size == 1:
            return function
        return jax.shard_map(function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def run(self, tree, r: int):
        """Run r's part of a stacked tree, on the host if it is spread over devices."""
        return jax.tree.map(lambda x: x[r], tree if self.size == 1 else jax.device_get(tree))
