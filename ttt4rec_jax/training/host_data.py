"""--data_placement=host: columns are mapped from disk, batches are made on the host.

The functions that make batches on the device run on the host's CPU here, with the same keys, so
that a run is the same as with all data on the device. JAX's CPU device uses the mapped columns
without a copy, so that only the parts that are read are loaded.
"""

import functools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.data.examples import Bucket
from ttt4rec_jax.parallel.sharding import RUNS, SHARED, Mesh
from ttt4rec_jax.training.step import (
    EpochSums,
    TrainState,
    TrainStep,
    add_step,
    draw_batch,
    over_runs,
)

PREFETCH = 3  # batches made before they are needed
BYTES_PER_CLICK = 32  # approximately: columns, examples, their order and the evaluation sets
MAX_MEMORY_FRACTION = 0.25  # of a device's memory; larger data stay on the host


def stays_on_host(placement: str, prepared: Path) -> bool:
    """Return whether the data of a prepared folder stay on the host.

    placement: the value of --data_placement; "auto" depends on the memory of a device.
    """
    if placement != "auto":
        return placement == "host"
    clicks = (prepared / "items.npy").stat().st_size // 4
    return clicks * BYTES_PER_CLICK > MAX_MEMORY_FRACTION * device_bytes()


def device_bytes() -> int:
    """Return the memory of one device; of a CPU, all the memory of the machine."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    limit = (statistics or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def host_device() -> jax.Device:
    """Return the CPU device, whatever devices train. Raises UserError if JAX has none."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "--data_placement=host: JAX has no CPU device to make batches on; "
            "add cpu to JAX_PLATFORMS, as in JAX_PLATFORMS=cuda,cpu"
        ) from error


class Drawn(NamedTuple):
    """The batch of a step and the model's random key, [1 or R, ...], on the devices that train."""

    batch: Batch
    key: jax.Array


class HostSteps:
    """The counterpart of step.stacked's run_steps for data and batches on the host.

    Each step is one dispatch, during which a thread makes and transfers the next batches. Each of
    several processes makes only the rows of a batch that its devices process, and reads no others.
    mesh: where the runs are; shared: whether they share each batch.
    """

    def __init__(
        self,
        train_step: TrainStep,
        config: Config,
        num_items: int,
        buckets: tuple[Bucket, ...],
        mesh: Mesh,
        runs: int,
        shared: bool,
    ) -> None:
        self.buckets = buckets
        self.mesh = mesh
        self.draws = SHARED if shared else RUNS
        self.thread = ThreadPoolExecutor(1, "batches")
        self.sizes = [bucket.batch_size + -bucket.batch_size % mesh.data for bucket in buckets]
        self.programs: dict[int, Any] = {}

        def draw(bucket, clicks, examples, order, key, step):
            def of_run(order_SxB, key):
                rows = mesh.process_rows(self.sizes[bucket])
                return draw_batch(
                    clicks,
                    examples,
                    order_SxB,
                    key,
                    step,
                    buckets[bucket],
                    config,
                    num_items,
                    mesh,
                    rows,
                )

            return Drawn(*jax.vmap(of_run)(order, key))

        def of_one(carry, drawn, step):
            state, loss = train_step(carry[0], drawn.batch, drawn.key)
            return state, add_step(carry[1], loss, step, config)

        of_all = over_runs(of_one, runs // mesh.size, shared)

        def train(state, sums, drawn, step):
            return of_all((state, sums), drawn, step)

        placed = mesh.map(train, (RUNS, RUNS, self.draws, SHARED), RUNS)
        self.draw = jax.jit(draw, static_argnums=0)
        self.train = jax.jit(placed, donate_argnums=0)

    def make(self, bucket: int, *arguments: Any) -> Drawn:
        """Return a bucket's batch and the key, on the devices that train."""
        batch, key = self.draw(bucket, *arguments)
        size = self.sizes[bucket]
        by_rows = functools.partial(self.mesh.place_rows, spec=self.draws, batch_size=size)
        as_whole = functools.partial(self.mesh.place, spec=self.draws)
        # Negatives that are shared by all rows of the batch have no axis of rows.
        place_negatives = as_whole if batch.negatives.ndim == 2 else by_rows
        negatives = place_negatives(batch.negatives)
        history, length, target, weight = by_rows(batch[:4])
        log_expected = as_whole(batch.log_expected)
        placed = Batch(history, length, target, weight, negatives, log_expected)
        return Drawn(placed, as_whole(key))

    def compile(
        self,
        state: TrainState,
        sums: EpochSums,
        clicks: Any,
        examples: Any,
        bucket_S: Any,
        order: Any,
        key: Any,
    ) -> "HostSteps":
        """Compile the step of each bucket ahead of time, and return self."""
        buckets = np.asarray(bucket_S)
        for bucket in range(len(self.buckets)):
            step = np.int32(np.argmax(buckets == bucket))
            drawn = self.make(bucket, clicks, examples, order, key, step)
            self.programs[bucket] = self.train.lower(state, sums, drawn, step).compile()
        return self

    def __call__(
        self,
        state: TrainState,
        sums: EpochSums,
        clicks: Any,
        examples: Any,
        bucket_S: Any,
        order: Any,
        key: Any,
        first: int,
        stop: int,
    ) -> tuple[TrainState, EpochSums]:
        """Take steps first..stop-1 of an epoch."""
        buckets = np.asarray(bucket_S).tolist()
        made: deque = deque()
        for step in range(first, stop + PREFETCH):
            if step < stop:
                arguments = (clicks, examples, order, key, np.int32(step))
                made.append(self.thread.submit(self.make, buckets[step], *arguments))
            current = step - PREFETCH
            if current >= first:
                drawn = made.popleft().result()
                state, sums = self.programs[buckets[current]](state, sums, drawn, np.int32(current))
        return state, sums
