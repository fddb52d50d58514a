"""--ttt_stats: statistics of a model's TTT layers on a fixed sample of validation histories.

Training does not depend on them.
"""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx

from ttt4rec_jax.data.dataset import Dataset, Targets
from ttt4rec_jax.data.time_gaps import click_codes
from ttt4rec_jax.models.ttt4rec import Ttt4Rec
from ttt4rec_jax.ttt.stats import layer_stats

SAMPLE = 512  # histories: a fraction of a second an epoch for windows of 10 clicks, seconds for 200


def sample(dataset: Dataset, max_len: int, time: str = "none") -> tuple[np.ndarray, np.ndarray]:
    """Return histories [B, L] of at most SAMPLE validation targets, and their lengths [B].

    The targets are evenly spaced over all of them. time: the value of --time.
    """
    targets: Targets = dataset.validation
    chosen = np.unique(np.linspace(0, len(targets.positions) - 1, SAMPLE).round().astype(int))
    stop_B = targets.positions[chosen]
    first_B = np.maximum(dataset.offsets[targets.users[chosen]], stop_B - max_len)
    position_BxL = first_B[:, None] + np.arange(max_len)
    is_valid = position_BxL < stop_B[:, None]
    clicks = dataset.items if time == "none" else click_codes(dataset, time)
    history_BxL = np.where(is_valid, clicks[np.where(is_valid, position_BxL, 0)], 0)
    return history_BxL.astype(np.int32), is_valid.sum(1, dtype=np.int32)


def model_stats(
    model: Ttt4Rec, history_BxL: jax.Array, length_B: jax.Array
) -> list[dict[str, jax.Array]]:
    """Return `layer_stats` of each block's TTT layer, first block first, without dropout."""
    x = model.first_input(history_BxL)
    stats = []
    for block, layer in zip(model.blocks, model.ttt_layers, strict=True):
        stats.append(layer_stats(layer, block.read(x), length_B))
        x = block(x, length_B, last_only=False, key=None)
    return stats


class TttStats:
    """A function from a run's parameters to the "ttt_stats" of an epoch's line in metrics.jsonl.

    Those are a dict per block, in each a list over heads per statistic; see `layer_stats`. A value
    that is not finite (W_0 of 0, an overflow) is None.
    """

    def __init__(self, graphdef: nnx.GraphDef, dataset: Dataset, max_len: int, time: str):
        self._histories = sample(dataset, max_len, time)
        self._stats = jax.jit(
            lambda params, *histories: model_stats(nnx.merge(graphdef, params), *histories)
        )

    def __call__(self, params: Any) -> list[dict[str, list[float | None]]]:
        """Return the statistics of one run's parameters."""

        def rounded(x_H):
            return [float(f"{x:.6g}") if math.isfinite(x) else None for x in x_H.tolist()]

        return jax.tree.map(rounded, jax.device_get(self._stats(params, *self._histories)))
