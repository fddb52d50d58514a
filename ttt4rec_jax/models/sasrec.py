"""SASRec: causal self-attention over the history, whose output at the last click scores candidates.

Kang and McAuley 2018, "Self-Attentive Sequential Recommendation" (arXiv:1808.09781), section 3.
What differs here: RMSNorm before attention's queries, keys and values alike, a GELU feed-forward
network of width 4D, no biases in attention, positions counted from the first click of the window,
and any of this project's losses (the paper's: bce with one negative, --targets=every).
"""

from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.layers import Attention, Block, BlockRecommender


class SasRec(BlockRecommender):
    """A TwoTower; see the module's docstring."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        layers = [Attention(config.dim, config.num_heads, rngs) for _ in range(config.num_blocks)]
        blocks = [Block(config.dim, layer, config.ffn, config.dropout, rngs) for layer in layers]
        super().__init__(config, num_items, blocks, rngs)
