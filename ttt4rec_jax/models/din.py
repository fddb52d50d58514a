"""DIN: the history is pooled anew for each candidate, by how much each click has to do with it.

Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction" (arXiv:1706.06978),
section 4.3: activation unit over [click, candidate, difference, product], weights not normalised,
sum pooling; then a network over [pooled, candidate, product of both] gives the score. PReLU (eq.
5's predecessor) instead of Dice, so that a score depends on no other example of the batch. The
unit's first map is split: only
the products' part is
computed for each pair of click
and candidate.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.layers import dropout, normal

UNIT_WIDTH = 36  # of the activation unit's hidden layer, as in the paper's figure 2
SCORE_WIDTHS = (80, 40)  # of the network after the pooling, as in the authors' code for Amazon


class PRelu(nnx.Module):
    """x where positive, else a learnt share of it (He et al. 2015, arXiv:1502.01852)."""

    def __init__(self, width: int):
        self.slope = nnx.Param(jnp.full(width, 0.25))

    def __call__(self, x):
        return jnp.where(x > 0, x, self.slope[...] * x)


class Affine(nnx.Module):
    """x W + b; Lecun-normal weights, no bias at first."""

    def __init__(self, width_in: int, width_out: int, rngs: nnx.Rngs):
        self.w = normal(rngs, (width_in, width_out), width_in**-0.5)
        self.b = nnx.Param(jnp.zeros(width_out))

    def __call__(self, x):
        return x @ self.w[...] + self.b[...]


class Din(nnx.Module):
    """Interface in models/__init__.py: a score that does not separate into user and item vectors."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        D = config.dim
        (first, second) = SCORE_WIDTHS
        # wider than where a norm follows: products of small embeddings would hide from the unit for
        # epochs
        self.embedding = normal(rngs, (num_items + 1, D), D**-0.5)
        self.unit_1 = Affine(4 * D, UNIT_WIDTH, rngs)
        self.unit_act = PRelu(UNIT_WIDTH)
        self.unit_2 = Affine(UNIT_WIDTH, 1, rngs)
        self.out_1 = Affine(3 * D, first, rngs)
        self.out_2 = Affine(first, second, rngs)
        self.out_3 = Affine(second, 1, rngs)
        self.out_act_1 = PRelu(first)
        self.out_act_2 = PRelu(second)
        self.dropout = config.dropout

    def score(self, history_BxL, length_B, candidates, key=None):
        """Scores [B, C] of candidates [B, C], or [C] for all histories."""
        B, L = history_BxL.shape
        keys = [None] * 2 if key is None else jax.random.split(key)
        click_BxLxD = dropout(self.embedding[...][history_BxL], self.dropout, keys[0])
        valid_BxL = jnp.arange(L) < length_B[:, None]
        candidate_BxCxD = jnp.broadcast_to(
            dropout(self.embedding[...][candidates], self.dropout, keys[1]),
            (B, candidates.shape[-1], click_BxLxD.shape[-1]),
        )
        return jax.vmap(self.score_one)(click_BxLxD, valid_BxL, candidate_BxCxD)

    def score_one(self, click_LxD, valid_L, candidate_CxD):
        """Scores [C] of one history's candidates."""
        w_click, w_candidate, w_difference, w_product = jnp.split(self.unit_1.w[...], 4)
        of_click = click_LxD @ (w_click + w_difference)
        of_candidate = candidate_CxD @ (w_candidate - w_difference) + self.unit_1.b[...]
        C = candidate_CxD.shape[0]  # an export's may be a symbol
        if isinstance(C, int) and C < UNIT_WIDTH:
            of_product = (candidate_CxD[:, None] * click_LxD) @ w_product
        else:  # for a catalogue: the click into the map instead, then all candidates as one product
            of_product = jnp.einsum("CD,LDU->CLU", candidate_CxD, click_LxD[..., None] * w_product)
        hidden_CxLxU = self.unit_act(of_product + of_click + of_candidate[:, None])
        weight_CxL = self.unit_2(hidden_CxLxU)[..., 0]
        pooled_CxD = jnp.where(valid_L, weight_CxL, 0) @ jnp.where(valid_L[:, None], click_LxD, 0)
        joined = jnp.concatenate([pooled_CxD, candidate_CxD, pooled_CxD * candidate_CxD], -1)
        return self.out_3(self.out_act_2(self.out_2(self.out_act_1(self.out_1(joined)))))[..., 0]
