"""TTT4Rec: a history through TTT layers, the state at its last click dotted with the candidate's tower.

Zhan, Lv, Zhang, Li, "Preliminary Evaluation of the Test-Time Training Layers in Recommendation System", AAAI-25
student abstract: item embeddings -> TTT-Linear -> RMSNorm -> F_s at the last click; F_t = MLP(candidate's embedding);
score F_s . F_t. The pre-norm and the residual around the TTT layer, and the optional feed-forward network, are those of
the TTT paper's backbone (Sun et al. 2024, arXiv:2407.04620, figure 13).
"""

from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.layers import Block, BlockRecommender
from ttt4rec_jax.ttt.layer import Ranges, TttConfig, TttLayer


def ttt_config(config: ModelConfig) -> TttConfig:
    """The part of a model's settings that a TTT layer needs."""
    return TttConfig(
        dim=config.dim,
        num_heads=config.num_heads,
        mini_batch_size=config.mini_batch_size,
        inner=config.inner,
        inner_learning_rate=config.inner_learning_rate,
        impl=config.ttt_impl,
        backbone=config.backbone,
    )


class Ttt4Rec(BlockRecommender):
    """The paper's recommender; interface in models/__init__.py."""

    def __init__(self, config: ModelConfig, ranges: Ranges, num_items: int, rngs: nnx.Rngs):
        layers = [TttLayer(ttt_config(config), rngs, ranges) for _ in range(config.num_blocks)]
        blocks = [Block(config.dim, layer, config.ffn, config.dropout, rngs) for layer in layers]
        super().__init__(config, num_items, blocks, rngs)
