"""The blocks that most models are stacks of, and the recommender that such a stack makes.

--block=residual: pre-norm and residuals, as in the TTT paper's backbone (Sun et al. 2024,
arXiv:2407.04620, figure 13). --block=filter: the block of BSARec (Shin, Choi, Wi, Park 2024,
arXiv:2312.10325), made causal; see FilterBlock.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.averages import MovingAverages
from ttt4rec_jax.models.dense import EMBEDDING_RANGE, feed_forward, normal
from ttt4rec_jax.models.layers import Key, RMSNorm, TwoTowerModel, dropout, last_valid, split_key
from ttt4rec_jax.ttt.forward import Length, last_position


def mix_on(
    mixer: Any, x_LxD: Float[Array, "L D"], length: Length, state: Any, last_only: bool
) -> tuple[Float[Array, "L_or_1 D"], Any]:
    """Return (a mixer's outputs of one sequence from a state, its next state)."""
    if len(x_LxD) == 1:  # mixer.sequence would compute a whole mini-batch for one token
        mixed_D, state = mixer.step(x_LxD[0], state)
        return mixed_D[None], state
    return mixer.sequence(x_LxD, length, state, last_only)


class Block(nnx.Module):
    """x + mixer(norm(x)), and with a feed-forward network then x + FFN(norm(x)).

    A mixer is a sequence layer: mixer(x [B, L, D], length [B], last_only) -> [B, L or 1, D].
    """

    def __init__(self, dim: int, mixer: nnx.Module, ffn: Any, dropout: float):
        """ffn: a network of dense.feed_forward, or None."""
        self.norm = RMSNorm(dim)
        self.mixer: Any = mixer
        self.ffn_norm = None if ffn is None else RMSNorm(dim)
        self.ffn = ffn
        self.dropout = dropout

    def read(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return what the mixer reads of the block's input."""
        return self.norm(x)

    def initial_state(self) -> Any:
        """Return the mixer's state before the first click."""
        return self.mixer.initial_state()

    def __call__(
        self,
        x_BxLxD: Float[Array, "B L D"],
        length_B: Int[Array, " B"],
        last_only: bool,
        key: Key,
    ) -> Float[Array, "B L_or_1 D"]:
        """Return [B, L, D], or [B, 1, D] at the last valid position with last_only."""
        mixer_key, ffn_key = split_key(key, 2)
        mixed = self.mixer(self.read(x_BxLxD), length_B, last_only)
        if last_only:
            x_BxLxD = last_valid(x_BxLxD, length_B)
        x_BxLxD = x_BxLxD + dropout(mixed, self.dropout, mixer_key)
        return self.add_feed_forward(x_BxLxD, ffn_key)

    def add_feed_forward(self, x: Float[Array, "*rows D"], key: Key) -> Float[Array, "*rows D"]:
        """Return x + FFN(norm(x)), or x without a feed-forward network."""
        if self.ffn is None or self.ffn_norm is None:
            return x
        return x + dropout(self.ffn(self.ffn_norm(x)), self.dropout, key)

    def advance(
        self, x_LxD: Float[Array, "L D"], length: Length, state: Any, last_only: bool
    ) -> tuple[Float[Array, "L_or_1 D"], Any]:
        """Continue from a state of the mixer with clicks of one sequence, without dropout.

        Returns: (output [L, D], or [1, D] at the last valid position with last_only; state).
        """
        mixed_LxD, state = mix_on(self.mixer, self.read(x_LxD), length, state, last_only)
        if last_only:
            x_LxD = x_LxD[last_position(length)][None]
        return self.add_feed_forward(x_LxD + mixed_LxD, None), state


class FilterBlock(nnx.Module):
    """norm(y + FFN(y)) of y = share * norm(x + filter(x)) + (1 - share) * norm(x + mixer(x)).

    BSARec's block, with TTT or attention as the mixer. BSARec filters the whole window by a Fourier
    transform; this filter reads the clicks so far alone (see averages.py), so that every position
    can be trained and a session goes on from a state.
    """

    def __init__(self, config: ModelConfig, mixer: nnx.Module, ffn: Any, rngs: nnx.Rngs):
        """ffn: a network of dense.feed_forward, or None."""
        self.mixer: Any = mixer
        self.mixer_norm = RMSNorm(config.dim)
        self.filter = MovingAverages(config.dim, rngs)
        self.filter_norm = RMSNorm(config.dim)
        self.ffn_norm = None if ffn is None else RMSNorm(config.dim)
        self.ffn = ffn
        self.share = config.filter_share
        self.dropout = config.dropout

    def read(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return what the mixer reads of the block's input."""
        return x

    def initial_state(self) -> tuple[Any, Any]:
        """Return the states of the mixer and of the filter before the first click."""
        return self.mixer.initial_state(), self.filter.initial_state()

    def __call__(
        self,
        x_BxLxD: Float[Array, "B L D"],
        length_B: Int[Array, " B"],
        last_only: bool,
        key: Key,
    ) -> Float[Array, "B L_or_1 D"]:
        """Return [B, L, D], or [B, 1, D] at the last valid position with last_only."""

        def filtered(x_LxD, length):
            return self.filter(x_LxD, length, self.filter.initial_state(), last_only)[0]

        mixed = self.mixer(x_BxLxD, length_B, last_only)
        low = jax.vmap(filtered)(x_BxLxD, length_B)
        if last_only:
            x_BxLxD = last_valid(x_BxLxD, length_B)
        return self.join(x_BxLxD, low, mixed, key)

    def join(
        self,
        x: Float[Array, "*rows D"],
        filtered: Float[Array, "*rows D"],
        mixed: Float[Array, "*rows D"],
        key: Key,
    ) -> Float[Array, "*rows D"]:
        """Return the block's output for its input and the outputs of filter and mixer."""
        filter_key, mixer_key, ffn_key = split_key(key, 3)
        by_filter = self.filter_norm(x + dropout(filtered, self.dropout, filter_key))
        by_mixer = self.mixer_norm(x + dropout(mixed, self.dropout, mixer_key))
        y = self.share * by_filter + (1 - self.share) * by_mixer
        if self.ffn is None or self.ffn_norm is None:
            return y
        return self.ffn_norm(y + dropout(self.ffn(y), self.dropout, ffn_key))

    def advance(
        self, x_LxD: Float[Array, "L D"], length: Length, state: Any, last_only: bool
    ) -> tuple[Float[Array, "L_or_1 D"], tuple[Any, Any]]:
        """Continue from a state with clicks of one sequence, without dropout; see Block.advance."""
        mixed_LxD, mixer_state = mix_on(self.mixer, x_LxD, length, state[0], last_only)
        filtered_LxD, filter_state = self.filter(x_LxD, length, state[1], last_only)
        if last_only:
            x_LxD = x_LxD[last_position(length)][None]
        return self.join(x_LxD, filtered_LxD, mixed_LxD, None), (mixer_state, filter_state)


def make_block(
    config: ModelConfig,
    mixer: nnx.Module,
    rngs: nnx.Rngs,
    std: float | jax.Array | None = None,
) -> Block | FilterBlock:
    """Return the block that --block names, around a mixer.

    std: of the initial weights of its feed-forward network; None: Block's are those of
    dense.feed_forward, FilterBlock's small, as all of BSARec's, so that at first the block returns
    little but its input.
    """
    if config.block == "filter":
        ffn = feed_forward(config, rngs, EMBEDDING_RANGE if std is None else std)
        return FilterBlock(config, mixer, ffn, rngs)
    return Block(config.dim, mixer, feed_forward(config, rngs, std), config.dropout)


class BlockRecommender(TwoTowerModel):
    """Item embeddings (with position embeddings, if configured) -> blocks -> RMSNorm."""

    uses: tuple[str, ...] = (*TwoTowerModel.uses, "input_layer", "positions")

    def __init__(
        self,
        config: ModelConfig,
        num_items: int,
        blocks: Sequence[Block | FilterBlock],
        rngs: nnx.Rngs,
        more_rows: int = 0,
        more_positions: int = 0,
        embedding_range: float | jax.Array = EMBEDDING_RANGE,
    ):
        super().__init__(config, num_items, rngs, more_rows, embedding_range)
        shape = (config.max_len + more_positions, config.dim)
        self.positions = (
            normal(rngs, shape, embedding_range) if config.positions == "learned" else None
        )
        self.blocks = nnx.List(blocks)
        self.norm = RMSNorm(config.dim)
        self.dropout = config.dropout

    def encode(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        every: bool = False,
        key: Key = None,
    ) -> Float[Array, "B *positions 1 D"]:
        """Return user vectors: [B, 1, D] at the last click, or [B, L, 1, D] at every one."""
        x = self.represent(history_BxL, length_B, every, key)
        return self.user_vectors(x if every else x[:, 0])

    def first_input(self, click_BxL: Int[Array, "*B L"]) -> Float[Array, "*B L D"]:
        """Return what the first block reads of clicks, without dropout."""
        x = self.embed(click_BxL)
        if self.positions is not None:
            x = x + self.positions[: x.shape[-2]]
        return self.read(x)

    def represent(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        every: bool,
        key: Key,
    ) -> Float[Array, "B L_or_1 D"]:
        """Return the last block's output, normalised: [B, L, D], or [B, 1, D] at the last click."""
        *block_keys, embedding_key = split_key(key, len(self.blocks) + 1)
        x = dropout(self.first_input(history_BxL), self.dropout, embedding_key)
        last = len(self.blocks) - 1
        for depth, (block, block_key) in enumerate(zip(self.blocks, block_keys, strict=True)):
            x = block(x, length_B, last_only=not every and depth == last, key=block_key)
        return self.norm(x)
