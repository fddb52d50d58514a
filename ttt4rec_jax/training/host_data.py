"""Data that stay on the host (--data_placement=host): columns mapped from disk, and what a step or a dispatch needs of them.

The programs that make batches on the device make them on the host's CPU here, of the same keys, so
that a run is what it is with all data on the device. JAX's CPU device takes mapped columns as they
lie on disk: of those,
only what is read is loaded.
"""

import functools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from data_prep.settings import UserError
from ttt4rec_jax.config import Config
from ttt4rec_jax.data.batches import Batch, Bucket
from ttt4rec_jax.parallel.sharding import RUNS, SHARED
from ttt4rec_jax.training.step import EpochSums, TrainState, add_step, draw_batch, over_runs

AHEAD = 3  # batches made before they are asked for
BYTES_A_CLICK = 32  # of columns, examples, their order and the evaluation sets, about
SHARE = 0.25  # of a device's memory that data may take before they stay on the host


def stays_on_host(asked: str, prepared: Path) -> bool:
    """Whether a prepared folder's data are to stay on the host. asked: --data_placement; auto: if they would fill a device."""
    clicks = (prepared / "items.npy").stat().st_size // 4
    return asked == "host" or (asked == "auto" and clicks * BYTES_A_CLICK > SHARE * device_bytes())


def device_bytes() -> int:
    """The memory of one device; of a CPU, all there is."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    return (statistics or {}).get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )


def host_device() -> jax.Device:
    """The CPU, beside whatever devices train. Raises UserError if JAX was told to do without."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "--data_placement=host: JAX has no CPU device to make batches on; add cpu to JAX_PLATFORMS, as in cuda,cpu"
        ) from error


class Drawn(NamedTuple):
    """A step on its way: the batch and the model's key, [1 or R, ...], placed."""

    batch: tuple
    key: jax.Array


class HostSteps:
    """`run_steps` of train_step.stacked, with the same arguments and results, for data, order and key that lie on the host.

    One dispatch a step; a thread makes and hands over the next batches meanwhile. Each of several
    processes makes the rows of a batch that its devices work on, and reads no others. mesh: where
    runs lie; shared: whether
    they share each batch.
    """

    def __init__(
        self,
        train_step,
        config: Config,
        num_items: int,
        buckets: tuple[Bucket, ...],
        mesh,
        runs: int,
        shared: bool,
    ):
        self.buckets = buckets
        self.mesh = mesh
        self.batches = SHARED if shared else RUNS
        self.thread = ThreadPoolExecutor(1, "batches")
        self.sizes = [bucket.batch_size + -bucket.batch_size % mesh.data for bucket in buckets]

        def draw(bucket: int, clicks, examples, order, key, step):
            def of_one(order_SxB, key):
                known = buckets[bucket], config, num_items, mesh, mesh.own_rows(self.sizes[bucket])
                return draw_batch(clicks, examples, order_SxB, key, step, *known)

            return Drawn(*jax.vmap(of_one)(order, key))

        def one(carry: tuple[TrainState, EpochSums], drawn: Drawn, step):
            state, loss = train_step(carry[0], drawn.batch, drawn.key)
            return state, add_step(carry[1], loss, step, config)

        of_all = over_runs(one, runs // mesh.size, shared)

        def train(state, sums, drawn, step):
            return of_all((state, sums), drawn, step)

        self.draw = jax.jit(draw, static_argnums=0)
        self.train = jax.jit(
            mesh.map(train, (RUNS, RUNS, self.batches, SHARED), RUNS), donate_argnums=0
        )
        self.programs = {}

    def make(self, bucket: int, *arguments) -> Drawn:
        """A bucket's batch, and the key, where they are worked on."""
        batch, key = self.draw(bucket, *arguments)
        rows = functools.partial(
            self.mesh.place_rows, spec=self.batches, batch_size=self.sizes[bucket]
        )
        whole = functools.partial(self.mesh.place, spec=self.batches)
        negatives = (whole if batch.negatives.ndim == 2 else rows)(
            batch.negatives
        )  # all rows may share them
        return Drawn(Batch(*rows(batch[:-1]), negatives), whole(key))

    def compile(self, state, sums, clicks, examples, of_S, order, key) -> "HostSteps":
        """Compiles each bucket's step ahead."""
        of = np.asarray(of_S)
        for bucket in range(len(self.buckets)):
            step = np.int32(np.argmax(of == bucket))
            drawn = self.make(bucket, clicks, examples, order, key, step)
            self.programs[bucket] = self.train.lower(state, sums, drawn, step).compile()
        return self

    def __call__(self, state, sums, clicks, examples, of_S, order, key, first, stop):
        of = np.asarray(of_S)
        made = deque()
        for step in range(first, stop + AHEAD):
            if step < stop:
                made.append(
                    self.thread.submit(
                        self.make, int(of[step]), clicks, examples, order, key, np.int32(step)
                    )
                )
            if (now := step - AHEAD) >= first:
                state, sums = self.programs[int(of[now])](
                    state, sums, made.popleft().result(), np.int32(now)
                )
        return state, sums
