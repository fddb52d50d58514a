"""Test-time training as it is defined: `lax.scan` over mini-batches, inner gradients from `jax.grad`.

For one sequence and one head; callers vmap. Within a mini-batch every token's gradient is taken at
the weights W that the mini-batch began with, and token i sees

    W_i = W - slot_scale_i * sum over j <= i of rate_j * (gradient of token j's loss at W)

(Sun et al. 2024, arXiv:2407.04620, section 2.4, eq. 6 with a learned rate per token). When a
mini-batch is full its last token's weights are carried to the next. mini_batch_size 1 is online
gradient descent. Because slot_scale depends on i alone, W and the sum so far are all there is to
carry, and a sequence can be
cut
anywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ttt4rec_jax.ttt.inner import FastWeights, InnerLearner, Norm, inner_loss, read_out


class State(NamedTuple):
    """The hidden state: weights at the start of the current mini-batch, and what has come in since."""

    weights: FastWeights
    gradients: FastWeights  # sum of rate_j * gradient_j over the current mini-batch's tokens so far
    filled: jax.Array  # how many those are, 0 <= filled < mini_batch_size


class Tokens(NamedTuple):
    """What the layer derives from a sequence: queries, keys, values [L, F], inner learning rates [L], validity [L].

    Without queries (None) nothing is read out. Valid tokens come first; the rate of an invalid one
    is 0.
    """

    query: jax.Array | None
    key: jax.Array
    value: jax.Array
    rate: jax.Array
    valid: jax.Array


def initial_state(weights: FastWeights) -> State:
    """The state before the first token."""
    return State(weights, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), jnp.int32))


def seen_weights(state: State, scale) -> FastWeights:
    """The fast weights seen by the token whose slot has this scale."""
    return jax.tree.map(lambda w, g: w - scale * g, state.weights, state.gradients)


def advance(state: State, slot_scale_b, gradients: FastWeights, count) -> State:
    """Adds the gradients of `count` more tokens; a mini-batch that is now full becomes the new weights."""
    state = state._replace(
        gradients=jax.tree.map(jnp.add, state.gradients, gradients), filled=state.filled + count
    )
    full = state.filled == len(slot_scale_b)
    return State(
        jax.tree.map(
            lambda new, old: jnp.where(full, new, old),
            seen_weights(state, slot_scale_b[-1]),
            state.weights,
        ),
        jax.tree.map(lambda g: jnp.where(full, 0, g), state.gradients),
        jnp.where(full, 0, state.filled),
    )


def slots(tokens: Tokens, state: State, mini_batch_size: int, aligned: bool):
    """The tokens in whole mini-batches [M, b, ...], and where the sequence's first token stands.

    `aligned` promises at trace time that the state is at the start of a mini-batch; otherwise the
    tokens are moved right by state.filled, behind slots that are already spent. A sequence that is
    shorter than a mini-batch and aligned with it is one short mini-batch: the slots that it cannot
    reach are not
    computed.
    """
    length = len(tokens.key)
    size = mini_batch_size if not aligned else max(1, min(mini_batch_size, length))
    room = length if aligned else length + mini_batch_size - 1
    count = -(-room // size)
    first = jnp.zeros((), jnp.int32) if aligned else state.filled

    def place(x):
        if aligned:
            padded = jnp.pad(x, [(0, count * size - length)] + [(0, 0)] * (x.ndim - 1))
        else:
            empty = jnp.zeros((count * size, *x.shape[1:]), x.dtype)
            padded = jax.lax.dynamic_update_slice_in_dim(empty, x, first, 0)
        return padded.reshape(count, size, *x.shape[1:])

    return jax.tree.map(place, tokens), first


def over_mini_batches(
    mini_batch, state: State, tokens: Tokens, mini_batch_size: int, aligned: bool
):
    """Runs `mini_batch(state, tokens_b) -> (state, outputs_b)` along the sequence: (outputs [L, F] or None, state)."""
    placed, first = slots(tokens, state, mini_batch_size, aligned)
    if len(placed.key) == 1:
        state, outputs = mini_batch(state, jax.tree.map(lambda x: x[0], placed))
    else:
        state, outputs = jax.lax.scan(mini_batch, state, placed)
    if outputs is None:
        return None, state
    outputs = outputs.reshape(-1, outputs.shape[-1])
    return jax.lax.dynamic_slice_in_dim(outputs, first, len(tokens.key)), state


def ttt_scan(
    learner: InnerLearner,
    norm: Norm,
    slot_scale_b,
    state: State,
    tokens: Tokens,
    aligned: bool = False,
):
    """The TTT layer's core on one sequence and one head, for any inner learner.

    Args: slot_scale_b [b], max(1/i + offset_i, 0) for slot i = 1..b; see State, Tokens, `slots`.
    Returns: outputs [L, F] (None without queries) and the state after the last valid token.
    """

    def mini_batch(state: State, tokens: Tokens):
        def gradient(key_F, value_F, rate):
            def loss(weights):
                return inner_loss(learner, weights, norm, key_F, value_F)

            return jax.tree.map(lambda g: rate * g, jax.grad(loss)(state.weights))

        gradients = jax.vmap(gradient)(tokens.key, tokens.value, tokens.rate)
        after = advance(
            state,
            slot_scale_b,
            jax.tree.map(lambda g: g.sum(0), gradients),
            tokens.valid.sum(dtype=jnp.int32),
        )
        if tokens.query is None:
            return after, None

        def output(query_F, scale, so_far):
            return read_out(
                learner, seen_weights(state._replace(gradients=so_far), scale), norm, query_F
            )

        so_far = jax.tree.map(
            lambda g, carried: carried + jnp.cumsum(g, 0), gradients, state.gradients
        )
        return after, jax.vmap(output)(tokens.query, slot_scale_b[: len(tokens.key)], so_far)

    return over_mini_batches(mini_batch, state, tokens, len(slot_scale_b), aligned)
