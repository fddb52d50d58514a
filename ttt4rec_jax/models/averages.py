"""--moving_averages: weighted means of a sequence so far, added to what a block's mixer returns.

A causal low-pass filter beside the sequence layer, as the frequency layer of BSARec (Shin, Choi,
Wi, Park 2024, arXiv:2312.10325) is one over whole windows. With a decay d, the mean at position i
weighs an earlier input j by d^(i - j). Each quarter of the channels has a decay of its own, and
each channel a learned gate, 1 at first.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.config import ModelConfig
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


class WithAverages(nnx.Module):
    """A mixer's output plus gated moving averages of its input, as a mixer (see Block)."""

    def __init__(self, mixer: Any, dim: int):
        self.mixer: Any = mixer
        self.gate = nnx.Param(jnp.ones(dim))

    def __call__(
        self,
        x_BxLxD: Float[Array, "B L D"],
        length_B: Int[Array, " B"],
        last_only: bool = False,
    ) -> Float[Array, "B L_or_1 D"]:
        """Return [B, L, D], or [B, 1, D] at the last valid position with last_only."""

        def means(x_LxD, length):
            position_R = self.positions(x_LxD, length, last_only)
            return means_at(x_LxD, position_R, no_means(x_LxD.shape[-1]))[0]

        mixed = self.mixer(x_BxLxD, length_B, last_only)
        return mixed + self.gate[...] * jax.vmap(means)(x_BxLxD, length_B)

    def initial_state(self) -> tuple:
        """Return (the mixer's state, the means) before the first token."""
        return self.mixer.initial_state(), no_means(len(self.gate))

    def sequence(
        self, x_LxD: Float[Array, "L D"], length: Length, state: tuple, last_only: bool = False
    ) -> tuple[Float[Array, "L_or_1 D"], tuple]:
        """Return (the outputs of one sequence from a state, the next state)."""
        mixed, after = self.mixer.sequence(x_LxD, length, state[0], last_only)
        position_R = self.positions(x_LxD, length, last_only)
        mean_RxD, weight_Rxd = means_at(x_LxD, position_R, state[1])
        row = 0 if last_only else jnp.maximum(length - 1, 0)
        return mixed + self.gate[...] * mean_RxD, (after, Means(mean_RxD[row], weight_Rxd[row]))

    def step(self, x_D: Float[Array, " D"], state: tuple) -> tuple[Float[Array, " D"], tuple]:
        """Return (the output of one more token, the next state)."""
        mixed, after = self.mixer.step(x_D, state[0])
        mean_1xD, weight_1xd = means_at(x_D[None], jnp.zeros(1, jnp.int32), state[1])
        return mixed + self.gate[...] * mean_1xD[0], (after, Means(mean_1xD[0], weight_1xd[0]))

    @staticmethod
    def positions(x_LxD: jax.Array, length: Length, last_only: bool) -> jax.Array:
        """Return the positions that are read: the last valid one, or all."""
        if last_only:
            return jnp.maximum(jnp.asarray(length) - 1, 0)[None]
        return jnp.arange(len(x_LxD))


def mixer(config: ModelConfig, layer: Any) -> Any:
    """Return a sequence layer as the mixer of a block: with moving averages, if configured."""
    return WithAverages(layer, config.dim) if config.moving_averages else layer
