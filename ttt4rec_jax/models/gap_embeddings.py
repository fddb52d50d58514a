"""--time: embeddings of the time gaps that clicks carry."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.time_gaps import GAP_CODES
from ttt4rec_jax.models.dense import EMBEDDING_RANGE, normal


class GapEmbeddings(nnx.Module):
    """Embeddings of the time gaps that clicks carry; data/time_gaps.py describes their codes.

    The sum of a click's embeddings is what the first layer reads, so that the gate of a TTT layer
    learns how much a click moves the fast weights from its gaps too.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        shape = (GAP_CODES, config.dim)
        self.before = normal(rngs, shape, EMBEDDING_RANGE)
        is_request = config.time == "request"
        self.after = normal(rngs, shape, EMBEDDING_RANGE) if is_request else None

    def __call__(self, gaps: Int[Array, "*clicks"]) -> Float[Array, "*clicks D"]:
        """Return the embeddings of gaps, before + GAP_CODES * after."""
        if self.after is None:
            return self.before[...][gaps]
        after, before = jnp.divmod(gaps, GAP_CODES)
        return self.before[...][before] + self.after[...][after]
