"""GRU4Rec: gated recurrent units over the history, whose state at the last click scores candidates.

Hidasi, Karatzoglou, Baltrunas, Tikk 2016, "Session-based Recommendations with Recurrent Neural
Networks" (arXiv:1511.06939), section 3.1. A variant: item embeddings instead of one-hot inputs, an
affine map and an RMSNorm after the last layer, so that user vectors have the scale that other
models' have here, users' histories instead of session-parallel mini-batches, since the data have no
sessions, and this project's losses instead of BPR and TOP1, so that models differ in nothing else.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.models.interface import Key
from ttt4rec_jax.models.layers import (
    RMSNorm,
    TwoTowerModel,
    dropout,
    last_valid,
    normal,
    split_key,
)

UNROLL = 5  # steps of the recurrence in one iteration of its loop


class Gru(nnx.Module):
    """Gated recurrent units (Cho et al. 2014, arXiv:1406.1078, eq. 5 to 8), width D to D.

    r = sigmoid(x W_r + h U_r + b_r), z = sigmoid(x W_z + h U_z + b_z), n = tanh(x W_n + b_n + r (h
    U_n + c_n)), h' = z h + (1 - z) n. The reset gate is applied after the product with U_n, as in
    cuDNN.
    """

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.w = normal(rngs, (dim, 3 * dim), dim**-0.5)
        self.u = normal(rngs, (dim, 3 * dim), dim**-0.5)
        self.b = nnx.Param(jnp.zeros(3 * dim))
        self.c_n = nnx.Param(jnp.zeros(dim))

    def __call__(self, x_BxLxD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Return the state after each position, from a state of zeros."""
        u = self.u[...]
        c_n = self.c_n[...]

        def step(h_BxD, x_Bx3D):
            (x_r, x_z, x_n), (h_r, h_z, h_n) = (jnp.split(a, 3, -1) for a in (x_Bx3D, h_BxD @ u))
            z = jax.nn.sigmoid(x_z + h_z)
            h_BxD = z * h_BxD + (1 - z) * jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * (h_n + c_n))
            return h_BxD, h_BxD

        projected_LxBx3D = (x_BxLxD @ self.w[...] + self.b[...]).swapaxes(0, 1)
        first_BxD = jnp.zeros_like(x_BxLxD[:, 0])
        return jax.lax.scan(step, first_BxD, projected_LxBx3D, unroll=UNROLL)[1].swapaxes(0, 1)


class Gru4Rec(TwoTowerModel):
    """A TwoTower; see the module's docstring."""

    def __init__(self, config: ModelConfig, num_items: int, rngs: nnx.Rngs):
        super().__init__(config, num_items, rngs)
        self.layers = nnx.List([Gru(config.dim, rngs) for _ in range(config.num_blocks)])
        self.w_out = normal(rngs, (config.dim, config.dim), config.dim**-0.5)
        self.b_out = nnx.Param(jnp.zeros(config.dim))
        self.norm = RMSNorm(config.dim)
        self.dropout = config.dropout

    def encode(
        self,
        history_BxL: Int[Array, "B L"],
        length_B: Int[Array, " B"],
        every: bool = False,
        key: Key = None,
    ) -> Float[Array, "B *positions 1 D"]:
        """Return user vectors: [B, 1, D] at the last click, or [B, L, 1, D] at every one."""
        *layer_keys, embedding_key = split_key(key, len(self.layers) + 1)
        x = dropout(self.read(self.embed(history_BxL)), self.dropout, embedding_key)
        for layer, layer_key in zip(self.layers, layer_keys, strict=True):
            x = dropout(layer(x), self.dropout, layer_key)
        x = x if every else last_valid(x, length_B)[:, 0]
        return self.user_vectors(self.norm(x @ self.w_out[...] + self.b_out[...]))
