"""Weighted means of a sequence so far: the causal low-pass filter of --block=filter.

The frequency layer of BSARec (Shin, Choi, Wi, Park 2024, arXiv:2312.10325) is a filter
over whole windows. Here, with a decay d, the mean at position i weighs an earlier input j by
d^(i - j). Each quarter of the channels has a decay of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.models.dense import normal
from ttt4rec_jax.ttt.forward import Length

DECAYS = (0.6, 0.85, 0.95, 1.0)  # 2.5, 6.7, 20 and all inputs count


class Means(NamedTuple):
    """The means so far [D], and the sums of their weights, one for each decay."""

    mean: jax.Array
    weight: jax.Array


def no_means(dim: int) -> Means:
    """Return the means before the first input."""
    return Means(jnp.zeros(dim), jnp.zeros(len(DECAYS)))


def means_at(
    x_LxD: Float[Array, "L D"], position_R: Int[Array, " R"], before: Means
) -> tuple[Float[Array, "R D"], Float[Array, "R decays"]]:
    """Return (the means at positions of a sequence, their weights), continuing from `before`."""
    age_RxL = position_R[:, None] - jnp.arange(len(x_LxD))
    means = []
    weights = []
    inputs = jnp.array_split(x_LxD, len(DECAYS), -1)
    earlier = jnp.array_split(before.mean, len(DECAYS))
    for n, decay in enumerate(DECAYS):
        old_R = decay ** (position_R + 1) * before.weight[n]
        new_RxL = jnp.where(age_RxL >= 0, decay ** jnp.maximum(age_RxL, 0), 0)
        weight_R = old_R + new_RxL.sum(-1)
        total = old_R[:, None] * earlier[n] + new_RxL @ inputs[n]
        means.append(total / weight_R[:, None])
        weights.append(weight_R)
    return jnp.concatenate(means, -1), jnp.stack(weights, -1)


class MovingAverages(nnx.Module):
    """m + g^2 (x - m) of a sequence x and its means m so far, with a learned g for each channel.

    In BSARec m is the low-frequency part of x, and g is called sqrt(beta). As in its code, g is
    drawn from N(0, 1). Where g is 0 the output is the mean, where it is 1 the input, and
    beyond 1 what is new in the input is amplified.
    """

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.gain = normal(rngs, (dim,), 1.0)

    def initial_state(self) -> Means:
        """Return the means before the first input."""
        return no_means(len(self.gain))

    def __call__(
        self, x_LxD: Float[Array, "L D"], length: Length, state: Means, last_only: bool = False
    ) -> tuple[Float[Array, "L_or_1 D"], Means]:
        """Return (outputs of one sequence from a state, the next state).

        The outputs are [L, D], or [1, D] at the last of the `length` valid positions.
        """
        last = jnp.maximum(jnp.asarray(length) - 1, 0)
        position_R = last[None] if last_only else jnp.arange(len(x_LxD))
        mean_RxD, weight_Rxd = means_at(x_LxD, position_R, state)
        row = 0 if last_only else last
        new_RxD = x_LxD[position_R] - mean_RxD
        output_RxD = mean_RxD + jnp.square(self.gain[...]) * new_RxD
        return output_RxD, Means(mean_RxD[row], weight_Rxd[row])
