"""SASRec: causal self-attention over the history, whose output at the last click scores candidates.

Kang and McAuley 2018, "Self-Attentive Sequential Recommendation" (arXiv:1808.09781), section 3.
What differs here, so that models differ in their sequence layer alone and share their blocks: one
block, two heads and no dropout by default (the authors' code: two blocks, one head, .5 on Beauty);
RMSNorm before attention's queries, keys and values alike, where the authors' code norms the queries
alone and adds the normed queries as the residual; an output projection, which that code lacks; a
GELU feed-forward network of width 4D (there ReLU, D); no biases in attention; embeddings not scaled
by sqrt(D); positions counted from the first click of the window; and any of this project's losses
(the paper's: bce with one negative, --targets=every).
"""

from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.blocks import BlockRecommender, make_block
from ttt4rec_jax.models.layers import Attention


class SasRec(BlockRecommender):
    """A TwoTower; see the module's docstring."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        layers = [Attention(config.dim, config.num_heads, rngs) for _ in range(config.num_blocks)]
        blocks = [make_block(config, one, rngs) for one in layers]
        super().__init__(config, num_items, blocks, rngs)
