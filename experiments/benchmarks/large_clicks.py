"""Generate a large data set of clicks, for large.py.

python experiments/benchmarks/large_clicks.py PATH INTERACTIONS SEED
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

CHUNK = 2_000_000  # clicks in memory at a time; changing it changes the data of a seed
# clicks per user: minimum, mean, and sigma of the lognormal distribution
LEAST = 5
MEAN = 100
SPREAD = 1.2
MOST_ITEMS = 1_000_000
BEGIN = 1_600_000_000  # unix seconds
SPAN = 3 * 365 * 86_400  # seconds


def click_counts(interactions: int, rng: np.random.Generator) -> np.ndarray:
    """Return the clicks of each of interactions / MEAN users: at least LEAST, long-tailed."""
    users = max(interactions // MEAN, 1)
    weights = rng.lognormal(0, SPREAD, users)
    return LEAST + rng.multinomial(interactions - LEAST * users, weights / weights.sum())


def chunks(interactions: int, seed: int) -> Iterator[pl.DataFrame]:
    """Yield the clicks in order of time.

    A user's clicks are spread evenly over all chunks; an item's popularity is its rank ** -0.8.
    """
    rng = np.random.default_rng(seed)
    counts = click_counts(interactions, rng)
    items = min(len(counts), MOST_ITEMS)
    popularity = np.cumsum(np.arange(1, items + 1) ** -0.8)
    item_ids = rng.permutation(items).astype(np.uint32)
    phase = rng.random(len(counts))
    before = np.zeros(len(counts), np.int64)
    cuts = np.linspace(0, 1, -(-interactions // CHUNK) + 1)
    for first, last in itertools.pairwise(cuts):
        after = np.floor(counts * last + phase).astype(np.int64)
        users = np.repeat(np.arange(len(counts), dtype=np.uint32), after - before)
        rng.shuffle(users)
        item = item_ids[np.searchsorted(popularity, rng.random(len(users)) * popularity[-1])]
        seconds = BEGIN + np.sort(rng.integers(int(first * SPAN), int(last * SPAN), len(users)))
        yield pl.DataFrame({"user": users, "item": item, "timestamp": seconds})
        before = after


def generate(path: Path, interactions: int, seed: int) -> None:
    """Write the clicks as Parquet, a chunk at a time."""

    # the arguments are hints for sources that hold more than what is needed
    def source(with_columns, predicate, n_rows, batch_size):
        del with_columns, predicate, n_rows, batch_size
        return chunks(interactions, seed)

    schema = {"user": pl.UInt32, "item": pl.UInt32, "timestamp": pl.Int64}
    register_io_source(source, schema=schema).sink_parquet(path)


if __name__ == "__main__":
    generate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
