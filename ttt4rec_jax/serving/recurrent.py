"""The programs that advance the states of live sessions of a recurrent model.

The state of a session is one vector [S] of fixed size: the user vector at the last click [D], then
the recurrent state of every block.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from ttt4rec_jax.serving import top_k
from ttt4rec_jax.serving.load_export import windows

CHUNK_SIZES = (1, 8, 64)  # clicks of a session per call; only these shapes are compiled


class RecurrentPrograms:
    """Jitted functions of a model's parameters that advance states by clicks.

    initial_state: the state [S] before the first click; dim: the size D of a user vector.
    """

    def __init__(self, graphdef: nnx.GraphDef, params: dict[str, Any]):
        model = nnx.merge(graphdef, params)
        block_states, unravel = ravel_pytree(model.initial_state())
        D = self.dim = model.norm.scale.shape[-1]
        self.initial_state = np.concatenate([np.zeros(D, np.float32), np.asarray(block_states)])

        def advance(params, click_BxT, length_B, state_BxS):
            model = nnx.merge(graphdef, params)

            def advance_one(click_T, length, state_S):
                user_1xD, states = model.advance(click_T, length, unravel(state_S[D:]))
                after_S = jnp.concatenate([user_1xD[0], ravel_pytree(states)[0]])
                return jnp.where(length > 0, after_S, state_S)

            return jax.vmap(advance_one)(click_BxT, length_B, state_BxS)

        def advance_and_top_k(params, click_BxT, length_B, state_BxS, item_NxCxD, blocked_BxW, k):
            state_BxS = advance(params, click_BxT, length_B, state_BxS)
            user_Bx1xD = state_BxS[:, None, :D]
            return state_BxS, top_k.top_k_of_users(model, user_Bx1xD, item_NxCxD, blocked_BxW, k)

        self.advance = jax.jit(advance)
        self.advance_and_top_k = jax.jit(advance_and_top_k, static_argnames="k")

    def advance_all(
        self, params: dict[str, Any], state_BxS: Any, clicks: list[np.ndarray]
    ) -> jax.Array:
        """Return the states after each row's clicks, of any number."""
        *chunks, last = chunked(clicks)
        return self.advance(params, *last, self._advance_chunks(params, state_BxS, chunks))

    def advance_all_and_top_k(
        self,
        params: dict[str, Any],
        state_BxS: Any,
        clicks: list[np.ndarray],
        item_NxCxD: jax.Array,
        blocked_BxW: np.ndarray,
        k: int,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the states after each row's clicks and the (scores, items) [B, k] of the best.

        The last chunk of clicks and the top k share one device call.
        """
        *chunks, last = chunked(clicks)
        state_BxS = self._advance_chunks(params, state_BxS, chunks)
        return self.advance_and_top_k(params, *last, state_BxS, item_NxCxD, blocked_BxW, k)

    def _advance_chunks(self, params: dict[str, Any], state_BxS: Any, chunks: list) -> Any:
        for click_BxT, length_B in chunks:
            state_BxS = self.advance(params, click_BxT, length_B, state_BxS)
        return state_BxS


def join_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return vectors of one length as rows [B, n], faster than np.stack. There is at least one."""
    return np.concatenate(rows).reshape(len(rows), -1)


def chunked(clicks: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the clicks of B rows, cut into chunks ([B, T], lengths [B]); at least one chunk.

    Each chunk is as long as the smallest of CHUNK_SIZES that holds all remaining clicks, or as the
    largest of them.
    """
    longest = max(len(items) for items in clicks)
    chunks: list[tuple[np.ndarray, np.ndarray]] = []
    start = 0
    while not chunks or start < longest:
        fitting = [size for size in CHUNK_SIZES if size >= longest - start]
        size = min(fitting, default=CHUNK_SIZES[-1])
        chunks.append(windows([items[start : start + size] for items in clicks], size))
        start += size
    return chunks
