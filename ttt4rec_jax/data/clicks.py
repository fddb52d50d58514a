"""The clicks of a data set on a device, and the histories that are read from them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.data.dataset import Dataset
from ttt4rec_jax.data.time_gaps import click_codes


class Clicks(NamedTuple):
    """The clicks of a data set on a device, as training and evaluation read them.

    Flat click positions are int32. items [E]; starts [users]: the position of a user's first click;
    is_first, gaps and gap_starts: see data_prep.index.click_index. timed [E]: the clicks with their
    time gaps (time_gaps.py), if the model reads them, else ().
    """

    items: jax.Array
    starts: jax.Array
    is_first: jax.Array
    gaps: jax.Array
    gap_starts: jax.Array
    timed: Any = ()

    @property
    def read(self) -> jax.Array:
        """The clicks [E] as histories hold them: items, or items with time gaps."""
        return self.items if isinstance(self.timed, tuple) else self.timed


def device_clicks(dataset: Dataset, device: jax.Device | None = None, time: str = "none") -> Clicks:
    """Put the clicks and their indices on a device, by default the default device.

    If the device is a CPU, memory-mapped arrays are used without a copy. time: the value of --time.
    Raises UserError if it needs times that the data do not have.
    """
    index = dataset.index
    timed: Any = () if time == "none" else click_codes(dataset, time)
    arrays = (
        dataset.items,
        dataset.offsets[:-1].astype(np.int32),
        index["is_first"],
        index["gaps"],
        index["gap_starts"],
        timed,
    )
    # device_put instead of jnp.asarray, which compiles a program for each shape
    return Clicks(*jax.device_put(arrays, device))


def clicks_of(
    dataset: Dataset,
    positions: np.ndarray,
    users: np.ndarray,
    capacity: int,
    timed: np.ndarray | None = None,
) -> tuple[Clicks, np.ndarray]:
    """Return the clicks up to and including some targets, and the targets' positions among them.

    In the result, each target is a user of its own. capacity: the length of the arrays, which are
    padded with zeros. timed: see Clicks. Evaluation samples no negatives, so `gaps` is empty.
    """
    starts = dataset.offsets[users]
    counts = positions - starts + 1
    ends = np.cumsum(counts)
    source = np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1])
    padding = (0, capacity - len(source))
    items = np.pad(dataset.items[source], padding)
    is_first = np.pad(dataset.index["is_first"][source], padding)
    no_gaps = np.zeros(1, np.int32)
    starts = (ends - counts).astype(np.int32)
    timed_part: Any = () if timed is None else np.pad(timed[source], padding)
    clicks = Clicks(items, starts, is_first, no_gaps, no_gaps, timed_part)  # type: ignore[arg-type]
    return clicks, (ends - 1).astype(np.int32)


def lengths_read(max_len: int) -> tuple[int, ...]:
    """Return the lengths, ascending, to which histories are padded outside of training.

    Most histories are short: three lengths cost a little compilation and save three quarters of
    the time on Beauty.
    """
    return (max_len,) if max_len < 32 else (-(-max_len // 6), -(-max_len // 3), max_len)


def windows(column_E: jax.Array, first_B: jax.Array, stop_B: jax.Array, max_len: int) -> jax.Array:
    """Return values first..stop-1 of a column of the clicks for each row, at most max_len.

    They are zero-padded to [B, max_len].
    """
    position_BxL = first_B[:, None] + jnp.arange(max_len)
    return jnp.where(position_BxL < stop_B[:, None], column_E[position_BxL], 0)


def histories(
    clicks: Clicks, positions_B: jax.Array, users_B: jax.Array, max_len: int
) -> tuple[jax.Array, jax.Array]:
    """Return the last max_len clicks before each position [B, L], and their number [B]."""
    first_B = jnp.maximum(clicks.starts[users_B], positions_B - max_len)
    return windows(clicks.read, first_B, positions_B, max_len), positions_B - first_B
