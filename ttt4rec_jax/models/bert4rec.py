"""BERT4Rec: bidirectional attention with masked-item training.

A mask appended to the history predicts the next item. Sun et al. 2019, "BERT4Rec: Sequential
Recommendation with Bidirectional Encoder Representations from Transformer" (arXiv:1904.06690),
sections 3.2 to 3.6: the Cloze task, with only the last click masked in some sequences. What
differs: pre-norm blocks with RMSNorm, no biases in attention, no projection before the product with
item embeddings, and this project's losses (the paper's: softmax). The masked clicks are sampled
again in each epoch instead of ten times in advance. An epoch passes over each user's sequence once,
which is fewer steps than the other models take by --targets=last (about 105 against 513 of 256 on
Beauty), so a comparison by steps gives it more epochs. The authors' code trains for 400,000 steps
on Beauty, with two blocks, dropout and a masking probability of .6.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.blocks import Block, BlockRecommender
from ttt4rec_jax.models.dense import feed_forward
from ttt4rec_jax.models.interface import Key
from ttt4rec_jax.models.layers import Attention


class Bert4Rec(BlockRecommender):
    """A TwoTower. Id num_items + 1 is the mask, with which histories may be max_len + 1 long."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        layers = [
            Attention(config.dim, config.num_heads, rngs, causal=False)
            for _ in range(config.num_blocks)
        ]
        blocks = [
            Block(config.dim, layer, feed_forward(config, rngs), config.dropout) for layer in layers
        ]
        super().__init__(config, num_items, blocks, rngs, more_rows=1, more_positions=1)
        self.mask = num_items + 1

    def encode(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        every: bool = False,
        key: Key = None,
    ) -> Float[Array, "B *positions 1 D"]:
        """Return user vectors [B, 1, D] at a mask appended to the history.

        With `every`, [B, L, 1, D] at each position of a history that holds masks.
        """
        if not every:
            position = jnp.arange(history_BxL.shape[1] + 1)
            history_BxL = jnp.where(
                position == length_B[:, None], self.mask, jnp.pad(history_BxL, ((0, 0), (0, 1)))
            )
            length_B = length_B + 1
        return super().encode(history_BxL, length_B, every, key)
