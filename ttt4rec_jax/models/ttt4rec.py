"""TTT4Rec: TTT layers over the history, whose output at the last click scores candidates.

Zhan, Lv, Zhang, Li, "Preliminary Evaluation of the Test-Time Training Layers in Recommendation
System", AAAI-25 student abstract: item embeddings -> TTT-Linear -> RMSNorm -> F_s at the last
click; F_t = MLP(candidate's embedding); score F_s . F_t. The pre-norm and the residual around the
TTT layer, and the optional feed-forward network, are those of the TTT paper's backbone (Sun et al.
2024, arXiv:2407.04620, figure 13).
"""

from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.layers import Block, BlockRecommender
from ttt4rec_jax.ttt.forward import Length
from ttt4rec_jax.ttt.layer import Ranges, TttLayer
from ttt4rec_jax.ttt.params import LayerState, TttConfig


def ttt_config(config: ModelConfig) -> TttConfig:
    """Return the part of a model's settings that a TTT layer needs."""
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
    """The paper's recommender: a TwoTower that may be a StreamingModel."""

    def __init__(self, config: ModelConfig, ranges: Ranges, num_items: int, rngs: nnx.Rngs):
        layers = [TttLayer(ttt_config(config), rngs, ranges) for _ in range(config.num_blocks)]
        blocks = [Block(config.dim, layer, config.ffn, config.dropout, rngs) for layer in layers]
        super().__init__(config, num_items, blocks, rngs)

    @property
    def is_stream(self) -> bool:
        """Whether histories of any length can be read click by click.

        They cannot if the model has position embeddings, which cover max_len clicks.
        """
        return self.positions is None

    def initial_state(self) -> tuple[LayerState, ...]:
        """Return the state of every block before the first click."""
        return tuple(block.mixer.initial_state() for block in self.blocks)

    def advance(
        self, click_L: Int[Array, " L"], length: Length, state: tuple[LayerState, ...]
    ) -> tuple[Float[Array, "1 D"], tuple[LayerState, ...]]:
        """Continue from a state with clicks of one user; the first `length` >= 1 are valid.

        Returns: (user vectors [1, D] at the last of them, as `encode` returns; the next state). The
        cost does not depend on how many clicks the state has seen.
        """
        x = self.embedding[...][click_L]
        after = []
        last = len(self.blocks) - 1
        for depth, (block, before) in enumerate(zip(self.blocks, state, strict=True)):
            x, block_state = block.advance(x, length, before, last_only=depth == last)
            after.append(block_state)
        return self.user_vectors(self.norm(x)[0]), tuple(after)
