"""TTT-Linear without fast weights per token: equal to scan.py, in less time and memory.

The gradient of token j's loss with respect to the weights is the outer product of [k_j, 1] and g_j,
the gradient at z_j = k_j W + b. So W need not be formed within a chunk of mini-batches: the outputs
of the inner learner for the keys of a mini-batch are

    z_i = k_i W + b - last * sum over j of rate_j * (k_i . k_j + 1) g_j

where j runs over the chunk's earlier mini-batches, W and b are those at the start of the chunk, and
`last` is the slot scale of a full mini-batch. triangular.py solves this system for all g. The
layer's outputs are then one masked product, as in the dual form, and W is formed only between
chunks.

The dual form is that of Sun et al. 2024, arXiv:2407.04620, section 2.5 and appendix A, for one
mini-batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ttt4rec_jax.ttt.inner import FastWeights, Norm, layer_norm
from ttt4rec_jax.ttt.matmul import gram, matmul
from ttt4rec_jax.ttt.scan import State, Tokens, mini_batch_length, shift_right
from ttt4rec_jax.ttt.triangular import same_mini_batch, substitute


class Layout(NamedTuple):
    """A sequence in slots: `num_chunks` chunks of `chunk` slots, in mini-batches of `size` slots.

    The tokens' arrays are [S, ...] with S = num_chunks * chunk: the tokens follow the slots that
    the state has already used, and empty slots are zero.
    """

    size: int
    chunk: int
    num_chunks: int
    length: int  # of the sequence
    first: jax.Array  # the slot of the first token
    key: jax.Array
    value: jax.Array
    rate: jax.Array
    # (W, b) at the start, where the gradients of the state's open mini-batch are applied with
    # `last_scale`, as if it were full
    start: FastWeights
    carried: FastWeights | None  # those gradients; None if there are none (aligned)
    last_scale: jax.Array  # the scale of a full mini-batch's last slot

    def place(self, x: jax.Array) -> jax.Array:
        """Return the sequence's rows [L, ...] in slots [S, ...]."""
        return shift_right(x, self.first, self.num_chunks * self.chunk, self.carried is None)

    def chunks(self, x: jax.Array) -> jax.Array:
        """Return [S, ...] as [num_chunks, chunk, ...]."""
        return x.reshape(self.num_chunks, self.chunk, *x.shape[1:])

    def corrected(self, z: jax.Array, x: jax.Array, scale_b: jax.Array) -> jax.Array:
        """Return z, the product of x and `start`, with the slots' own scales of carried gradients.

        Only rows of the first mini-batch differ: `start` applies them with `last_scale`.
        """
        if self.carried is None:
            return z
        b = self.size
        more = (self.last_scale - scale_b[:b, None]) * affine(self.carried, x[:b])
        return z.at[:b].add(more)


def lay_out(
    slot_scale_b: Float[Array, " b"], state: State, tokens: Tokens, aligned: bool, chunk: int
) -> Layout:
    """Return the layout of a sequence in chunks of about `chunk` slots."""
    length = len(tokens.key)
    size = mini_batch_length(length, len(slot_scale_b), aligned)
    room = length if aligned else length + size - 1
    chunk = -(-min(max(chunk, size), room) // size) * size
    last_scale = slot_scale_b[-1]
    (weights,) = state.weights
    (carried,) = state.gradients
    layout = Layout(
        size=size,
        chunk=chunk,
        num_chunks=-(-room // chunk),
        length=length,
        first=jnp.zeros((), jnp.int32) if aligned else state.filled,
        key=tokens.key,
        value=tokens.value,
        rate=tokens.rate,
        start=weights
        if aligned
        else jax.tree.map(lambda w, g: w - last_scale * g, weights, carried),
        carried=None if aligned else carried,
        last_scale=last_scale,
    )
    place = layout.place
    return layout._replace(
        key=place(tokens.key), value=place(tokens.value), rate=place(tokens.rate)
    )


def solve(norm: Norm, layout: Layout) -> tuple[FastWeights, Float[Array, "S F"]]:
    """Return ((W, b) at the start of each chunk [num_chunks, ...], all rate-weighted gradients)."""
    b = layout.size
    key = layout.key
    # a key reads the weights at the start of its mini-batch, without the carried gradients
    offset = None
    if layout.carried is not None:
        offset = layout.corrected(jnp.zeros_like(key), key, jnp.zeros(b, key.dtype))

    def chunk(weights, xs):
        key, target, rate, offset = xs
        base = affine(weights, key) if offset is None else affine(weights, key) + offset
        step = layout.last_scale * rate
        g = rate[:, None] * substitute(b, norm, key, base, target, step)
        after = jax.tree.map(lambda w, g: w - layout.last_scale * g, weights, gradient(key, g))
        return after, (weights, g)

    xs = jax.tree.map(layout.chunks, (key, layout.value - key, layout.rate, offset))
    if layout.num_chunks == 1:
        _, (starts, g) = chunk(layout.start, jax.tree.map(lambda x: x[0], xs))
        starts = jax.tree.map(lambda w: w[None], starts)
    else:
        _, (starts, g) = jax.lax.scan(chunk, layout.start, xs)
    return starts, g.reshape(key.shape)


def end_state(
    layout: Layout, state: State, valid_L: Bool[Array, " L"], b: int, g: Float[Array, "S F"]
) -> State:
    """Return the state after the last valid token. b: mini_batch_size."""
    slot_S = jnp.arange(layout.num_chunks * layout.chunk)
    total = layout.first + valid_L.sum(dtype=jnp.int32)
    full = total // b * b  # the slots before this one are in full mini-batches
    in_full = gradient(layout.key, jnp.where(slot_S[:, None] < full, g, 0))
    gradients = gradient(layout.key, jnp.where(slot_S[:, None] < full, 0, g))
    weights = jax.tree.map(lambda w, g: w - layout.last_scale * g, layout.start, in_full)
    if layout.carried is not None:
        is_open = full == 0  # the mini-batch of the state is still not full
        (old_weights,) = state.weights
        weights = jax.tree.map(lambda w, old: jnp.where(is_open, old, w), weights, old_weights)
        gradients = jax.tree.map(
            lambda g, carried: g + jnp.where(is_open, carried, 0), gradients, layout.carried
        )
    return State((weights,), (gradients,), (total - full).astype(state.filled.dtype))


def read_last(
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    layout: Layout,
    g: Float[Array, "S F"],
    query: Float[Array, "1 F"],
    last: Int[Array, ""],
) -> Float[Array, "1 F"]:
    """Return the output at position `last`, the last valid one, which has the only query."""
    b = layout.size
    slot_S = jnp.arange(layout.num_chunks * layout.chunk)
    slot = layout.first + last
    scale = slot_scale_b[slot % len(slot_scale_b)]
    coefficient_1xS = jnp.where(slot_S // b < slot // b, layout.last_scale, scale)[None]
    z = affine(layout.start, query) - (coefficient_1xS * (query @ layout.key.T + 1)) @ g
    if layout.carried is not None:
        own_scale = jnp.where(slot < b, layout.last_scale - scale, 0)
        z += own_scale * affine(layout.carried, query)
    return query + layer_norm(z, norm)


def read_all(
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    layout: Layout,
    starts: FastWeights,
    g: Float[Array, "S F"],
    query: Float[Array, "S F"],
) -> Float[Array, "L F"]:
    """Return the outputs at every position; those at padded positions are arbitrary."""
    b = layout.size
    scale_c = jnp.tile(slot_scale_b[:b], layout.chunk // b)[:, None]
    causal_cxc = np.tri(layout.chunk, dtype=bool)
    own_cxc = same_mini_batch(layout.chunk, b)

    def read(weights, query, key, g):
        gram_cxc = gram(query, key) + 1
        if b in (1, layout.chunk):  # one scale for all gradients that a token reads
            return affine(weights, query) - scale_c * matmul(jnp.where(causal_cxc, gram_cxc, 0), g)
        earlier = matmul(jnp.where(causal_cxc & ~own_cxc, gram_cxc, 0), g)
        return (
            affine(weights, query)
            - layout.last_scale * earlier
            - scale_c * matmul(jnp.where(causal_cxc & own_cxc, gram_cxc, 0), g)
        )

    rows = map(layout.chunks, (query, layout.key, g))
    z = jax.vmap(read)(starts, *rows).reshape(layout.key.shape)
    outputs = query + layer_norm(layout.corrected(z, query, slot_scale_b), norm)
    return jax.lax.dynamic_slice_in_dim(outputs, layout.first, layout.length)


def affine(weights: FastWeights, x: Float[Array, "n F"]) -> Float[Array, "n F"]:
    """Return x W + b."""
    w, b = weights
    return x @ w + b


def gradient(key: Float[Array, "n F"], g: Float[Array, "n F"]) -> FastWeights:
    """Return the gradient with respect to (W, b), given the gradients g at the keys' outputs."""
    return key.T @ g, g.sum(0)


def ttt_chunked(
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    state: State,
    tokens: Tokens,
    aligned: bool,
    chunk: int,
    last: Int[Array, ""] | None = None,
) -> tuple[Float[Array, "L F"] | None, State]:
    """Compute the same as `scan.ttt_scan`, for fast weights ((W, b),).

    Args:
        chunk: The number of tokens per chunk, rounded up to whole mini-batches. A longer one means
            larger products, but fewer W to form and to keep (select.py has the usual choice).
        last: If given, the position of the only query, the last valid token.

    Returns the same as `scan.ttt_scan`, with outputs [1, F] if `last` is given; outputs at padding
    are arbitrary.
    """
    layout = lay_out(slot_scale_b, state, tokens, aligned, chunk)
    starts, g = solve(norm, layout)
    after = end_state(layout, state, tokens.valid, len(slot_scale_b), g)
    if tokens.query is None:
        return None, after
    if last is not None:
        return read_last(norm, slot_scale_b, layout, g, tokens.query, last), after
    return read_all(norm, slot_scale_b, layout, starts, g, layout.place(tokens.query)), after
