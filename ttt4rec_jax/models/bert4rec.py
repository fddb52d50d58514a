"""BERT4Rec: attention in both directions, trained to find hidden clicks again; a mask behind the history stands for the next.

Sun et al. 2019, "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations
from Transformer" (arXiv:1904.06690), sections 3.2 to 3.6: the Cloze task, some sequences with the
last click alone hidden. What differs: pre-norm blocks with RMSNorm, no biases in attention, no
projection before the product with item embeddings, and this project's losses (the paper's:
softmax). Clicks to hide are
drawn anew in each epoch
instead of ten times beforehand.
"""

import jax.numpy as jnp
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.layers import Attention, Block, BlockRecommender


class Bert4Rec(BlockRecommender):
    """Interface in models/__init__.py. Id num_items + 1 is the mask; histories may be max_len + 1 long with it."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        layers = [
            Attention(config.dim, config.num_heads, rngs, causal=False)
            for _ in range(config.num_blocks)
        ]
        blocks = [Block(config.dim, layer, config.ffn, config.dropout, rngs) for layer in layers]
        super().__init__(config, num_items, blocks, rngs, more_rows=1, more_places=1)
        self.mask = num_items + 1

    def encode(self, history_BxL, length_B, every: bool = False, key=None):
        """User vectors [B, 1, D] at a mask put behind the history; with `every`, [B, L, 1, D] of a history that holds masks."""
        if not every:
            place = jnp.arange(history_BxL.shape[1] + 1)
            history_BxL = jnp.where(
                place == length_B[:, None], self.mask, jnp.pad(history_BxL, ((0, 0), (0, 1)))
            )
            length_B = length_B + 1
        return super().encode(history_BxL, length_B, every, key)
