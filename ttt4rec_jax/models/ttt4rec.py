"""TTT4Rec: TTT layers over the history, whose output at the last click scores candidates.

Zhan, Lv, Zhang, Li, "Preliminary Evaluation of the Test-Time Training Layers in Recommendation
System", AAAI-25 student abstract: item embeddings -> TTT-Linear -> RMSNorm -> F_s at the last
click; F_t = MLP(candidate's embedding); score F_s . F_t. The pre-norm and the residual around the
TTT layer are those of the TTT paper's backbone (Sun et al. 2024, arXiv:2407.04620, figure 13). So
is the feed-forward network with --ffn=swiglu; the default, gelu, is the one that SASRec, BERT4Rec
and ICLRec have here, so that they differ in the sequence layer alone. The abstract does not mention
any.

--initializer_reach says which initial values initializer_range sets, since the TTT paper's two
codes differ. ttt-lm-jax draws projections, gate, W_0, SwiGLU and embeddings from N(0,
initializer_range^2); ttt-lm-pytorch draws projections, SwiGLU and embeddings from it, gate and W_0
from N(0, .02^2). The target tower is part of neither; its initial weights are Lecun-normal.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.blocks import BlockRecommender, make_block
from ttt4rec_jax.models.dense import EMBEDDING_RANGE
from ttt4rec_jax.ttt.forward import Length
from ttt4rec_jax.ttt.layer import Ranges, TttLayer
from ttt4rec_jax.ttt.params import TttConfig


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
        if config.initializer_reach == "pytorch":
            ranges = ranges._replace(gate_range=Ranges().initializer_range)
        std = None if config.initializer_reach == "layer" else ranges.initializer_range
        layers = [TttLayer(ttt_config(config), rngs, ranges) for _ in range(config.num_blocks)]
        blocks = [make_block(config, one, rngs, std) for one in layers]
        embedding_range = EMBEDDING_RANGE if std is None else std
        super().__init__(config, num_items, blocks, rngs, embedding_range=embedding_range)

    @property
    def ttt_layers(self) -> list[TttLayer]:
        """The TTT layer of each block, first block first."""
        return [block.mixer for block in self.blocks]

    @property
    def is_stream(self) -> bool:
        """Whether histories of any length can be read click by click.

        They cannot if the model has position embeddings, which cover max_len clicks.
        """
        return self.positions is None

    def initial_state(self) -> tuple[Any, ...]:
        """Return the state of every block before the first click."""
        return tuple(block.initial_state() for block in self.blocks)

    def advance(
        self, click_L: Int[Array, " L"], length: Length, state: tuple[Any, ...]
    ) -> tuple[Float[Array, "1 D"], tuple[Any, ...]]:
        """Continue from a state with clicks of one user; the first `length` >= 1 are valid.

        Returns: (user vectors [1, D] at the last of them, as `encode` returns; the next state). The
        cost does not depend on how many clicks the state has seen.
        """
        x = self.first_input(click_L)
        after = []
        last = len(self.blocks) - 1
        for depth, (block, before) in enumerate(zip(self.blocks, state, strict=True)):
            x, block_state = block.advance(x, length, before, last_only=depth == last)
            after.append(block_state)
        return self.user_vectors(self.norm(x)[0]), tuple(after)
