"""TTT4Rec: a history through TTT layers, the state at its last click dotted with the candidate's tower.

Zhan, Lv, Zhang, Li, "Preliminary Evaluation of the Test-Time Training Layers in Recommendation System", AAAI-25
student abstract: item embeddings -> TTT-Linear -> RMSNorm -> F_s at the last click; F_t = MLP(candidate's embedding);
score F_s . F_t. The pre-norm and the residual around the TTT layer, and the optional feed-forward network, are those of
the TTT paper's backbone (Sun et al. 2024, arXiv:2407.04620, figure 13).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.layers import Mlp, RMSNorm, dropout, normal
from ttt4rec_jax.ttt.layer import TttConfig, TttLayer

EMBEDDING_RANGE = 0.02  # initializer_range is the TTT layers' alone


def ttt_config(config: ModelConfig) -> TttConfig:
    """The part of a model's settings that a TTT layer needs."""
    same = config.fast_weight_range < 0
    return TttConfig(
        dim=config.dim,
        num_heads=config.num_heads,
        mini_batch_size=config.mini_batch_size,
        inner=config.inner,
        inner_learning_rate=config.inner_learning_rate,
        initializer_range=config.initializer_range,
        fast_weight_range=config.initializer_range if same else config.fast_weight_range,
        impl=config.ttt_impl,
    )


class Block(nnx.Module):
    """x + TTT(norm(x)), and with a feed-forward network x + FFN(norm(x)) after it."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.norm, self.ttt = RMSNorm(config.dim), TttLayer(ttt_config(config), rngs)
        self.ffn_norm = RMSNorm(config.dim) if config.ffn else None
        self.ffn = Mlp(config.dim, 4 * config.dim, jax.nn.gelu, rngs) if config.ffn else None
        self.dropout = config.dropout

    def __call__(self, x_BxLxD, length_B, last_only: bool, key):
        """[B, L, D], or [B, 1, D] at the last valid position with last_only."""
        keys = [None, None] if key is None else jax.random.split(key)
        added = self.ttt(self.norm(x_BxLxD), length_B, last_only)
        if last_only:
            x_BxLxD = jnp.take_along_axis(x_BxLxD, jnp.maximum(length_B - 1, 0)[:, None, None], 1)
        x_BxLxD = x_BxLxD + dropout(added, self.dropout, keys[0])
        if self.ffn is not None:
            x_BxLxD = x_BxLxD + dropout(self.ffn(self.ffn_norm(x_BxLxD)), self.dropout, keys[1])
        return x_BxLxD


class Ttt4Rec(nnx.Module):
    """The paper's recommender; interface in models/__init__.py."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        self.embedding = normal(rngs, (num_items + 1, config.dim), EMBEDDING_RANGE)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.num_blocks)])
        self.norm = RMSNorm(config.dim)
        self.tower = Mlp(config.dim, config.dim, jnp.tanh, rngs) if config.target_tower == "mlp" else None
        self.dropout = config.dropout

    def encode(self, history_BxL, length_B, every: bool = False, key=None):
        """F_s: [B, D] at the last click, or [B, L, D] at every one."""
        keys = [None] * (len(self.blocks) + 1) if key is None else jax.random.split(key, len(self.blocks) + 1)
        x = dropout(self.embedding[...][history_BxL], self.dropout, keys[-1])
        for depth, block in enumerate(self.blocks):
            x = block(x, length_B, last_only=not every and depth == len(self.blocks) - 1, key=keys[depth])
        x = self.norm(x)
        return x if every else x[:, 0]

    def item_vectors(self, items):
        """F_t of the given items."""
        e = self.embedding[...][items]
        return e if self.tower is None else self.tower(e)
