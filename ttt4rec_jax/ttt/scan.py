"""The definition of test-time training: `lax.scan` over mini-batches, gradients by `jax.grad`.

All functions work on one sequence and one head; callers vmap. Within a mini-batch every token's
gradient is taken at the weights W at the start of the mini-batch, and token i reads

    W_i = W - slot_scale_i * sum over j <= i of rate_j * (gradient of token j's loss at W)

(Sun et al. 2024, arXiv:2407.04620, section 2.4, eq. 6 with a learned rate per token). When a
mini-batch is full, the weights of its last token are the initial weights of the next one.
mini_batch_size 1 is online gradient descent. Because slot_scale depends only on i, the state
consists of W and the sum so far, and a sequence can be cut anywhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ttt4rec_jax.ttt.inner import FastWeights, InnerLearner, Norm, inner_loss, read_out


class State(NamedTuple):
    """The weights at the start of the current mini-batch, and its gradients so far."""

    weights: FastWeights
    gradients: FastWeights  # sum of rate_j * gradient_j over the current mini-batch's tokens so far
    filled: jax.Array  # the number of those tokens, 0 <= filled < mini_batch_size


class Tokens(NamedTuple):
    """The inputs of the inner learner, which the layer computes from a sequence.

    Queries, keys and values [L, F], inner learning rates [L], validity [L]. Without queries (None)
    there are no outputs. Valid tokens come first; the rate of an invalid token is 0.
    """

    query: jax.Array | None
    key: jax.Array
    value: jax.Array
    rate: jax.Array
    valid: jax.Array


def initial_state(weights: FastWeights) -> State:
    """Return the state before the first token."""
    return State(weights, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), jnp.int32))


def weights_at_slot(state: State, scale: Float[Array, ""]) -> FastWeights:
    """Return the fast weights that the token in the slot with this scale reads."""
    return jax.tree.map(lambda w, g: w - scale * g, state.weights, state.gradients)


def advance(
    state: State,
    slot_scale_b: Float[Array, " b"],
    gradients: FastWeights,
    count: int | Int[Array, ""],
) -> State:
    """Add the gradients of `count` more tokens; a mini-batch that is full updates the weights."""
    state = state._replace(
        gradients=jax.tree.map(jnp.add, state.gradients, gradients), filled=state.filled + count
    )
    full = state.filled == len(slot_scale_b)
    return State(
        jax.tree.map(
            lambda new, old: jnp.where(full, new, old),
            weights_at_slot(state, slot_scale_b[-1]),
            state.weights,
        ),
        jax.tree.map(lambda g: jnp.where(full, 0, g), state.gradients),
        jnp.where(full, 0, state.filled),
    )


def mini_batch_length(length: int, mini_batch_size: int, aligned: bool) -> int:
    """Return the number of slots per mini-batch that are computed for `length` tokens.

    An aligned sequence that is shorter than a mini-batch is one short mini-batch.
    """
    return max(1, min(mini_batch_size, length)) if aligned else mini_batch_size


def shift_right(x: jax.Array, first: Int[Array, ""], total: int, aligned: bool) -> jax.Array:
    """Return [L, ...] as [total, ...], moved right by `first` slots, zeros elsewhere.

    With `aligned`, first is 0 and known when the program is traced.
    """
    if aligned:
        return jnp.pad(x, [(0, total - len(x))] + [(0, 0)] * (x.ndim - 1))
    empty = jnp.zeros((total, *x.shape[1:]), x.dtype)
    return jax.lax.dynamic_update_slice_in_dim(empty, x, first, 0)


def to_mini_batches(
    tokens: Tokens, state: State, mini_batch_size: int, aligned: bool
) -> tuple[Tokens, Int[Array, ""]]:
    """Return the tokens in whole mini-batches [M, b, ...] and the slot of the first token.

    aligned: whether the state is at the start of a mini-batch, known when the program is traced;
    otherwise the tokens are moved right by state.filled, after the slots that are already used. An
    aligned sequence shorter than a mini-batch becomes one short mini-batch; the slots beyond it are
    not computed.
    """
    length = len(tokens.key)
    size = mini_batch_length(length, mini_batch_size, aligned)
    room = length if aligned else length + mini_batch_size - 1
    count = -(-room // size)
    first = jnp.zeros((), jnp.int32) if aligned else state.filled

    def place(x):
        return shift_right(x, first, count * size, aligned).reshape(count, size, *x.shape[1:])

    return jax.tree.map(place, tokens), first


def scan_mini_batches(
    mini_batch: Callable[[State, Tokens], tuple[State, Any]],
    state: State,
    tokens: Tokens,
    mini_batch_size: int,
    aligned: bool,
) -> tuple[Any, State]:
    """Run `mini_batch(state, tokens_b) -> (state, outputs_b)` along the sequence.

    Returns: (outputs [L, F], or None if mini_batch returns None; the state at the end).
    """
    placed, first = to_mini_batches(tokens, state, mini_batch_size, aligned)
    if len(placed.key) == 1:
        state, outputs = mini_batch(state, jax.tree.map(lambda x: x[0], placed))
    else:
        state, outputs = jax.lax.scan(mini_batch, state, placed)
    if outputs is None:
        return None, state
    outputs = outputs.reshape(-1, outputs.shape[-1])
    return jax.lax.dynamic_slice_in_dim(outputs, first, len(tokens.key)), state


def scan_aligned(
    mini_batch: Callable[[FastWeights, Tokens, jax.Array], tuple[FastWeights, Any]],
    gradients_of: Callable[[FastWeights, Tokens], FastWeights],
    slot_scale_b: Float[Array, " b"],
    state: State,
    tokens: Tokens,
) -> tuple[Any, State]:
    """Run mini-batches from a state without gradients, and carry nothing but weights between them.

    The gradients of a mini-batch that is not full are part of the state alone, and so are computed
    after the loop: where the state is not read, as in training, XLA leaves them out.

    Args:
        mini_batch: (weights, tokens_b, scale) -> (the weights after a step of the scale against the
            gradients, outputs_b).
        gradients_of: (weights, tokens_b) -> the rate-weighted sum of the tokens' gradients.

    Returns: (outputs [L, F], or None if mini_batch returns None; the state at the end).
    """
    b = len(slot_scale_b)
    placed, _ = to_mini_batches(tokens, state, b, aligned=True)
    length = len(tokens.key)
    last = len(placed.key) - 1
    count = tokens.valid.sum(dtype=jnp.int32)
    # the tokens after a mini-batch that is not full are padding, so that it need not be applied
    is_full_M = b * jnp.arange(1, last + 2) <= count
    scale_M = jnp.where(is_full_M, slot_scale_b[-1], 0)

    def step(weights, xs):
        tokens, scale = xs
        return mini_batch(weights, tokens, scale)

    if last:
        # to keep what a step computes takes longer than to compute it again in the gradient
        again = jax.checkpoint(step, prevent_cse=False)
        weights, outputs = jax.lax.scan(again, state.weights, (placed, scale_M))
        open_one = jax.tree.map(lambda x: x[jnp.minimum(count // b, last)], placed)
        gradients = gradients_of(weights, open_one)
    else:
        only = jax.tree.map(lambda x: x[0], placed)
        gradients = gradients_of(state.weights, only)
        weights, outputs = mini_batch(state.weights, only, scale_M[0])
    filled = count % b
    gradients = jax.tree.map(lambda g: jnp.where(filled > 0, g, 0), gradients)
    after = State(weights, gradients, filled)
    return None if outputs is None else outputs.reshape(-1, outputs.shape[-1])[:length], after


def ttt_scan(
    learner: InnerLearner,
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    state: State,
    tokens: Tokens,
    aligned: bool = False,
) -> tuple[Float[Array, "L F"] | None, State]:
    """Run the TTT layer's core on one sequence and one head, for any inner learner.

    Args:
        slot_scale_b: max(1/i + offset_i, 0) for slot i = 1..b.
        state, tokens, aligned: See State, Tokens and `to_mini_batches`.

    Returns the outputs [L, F] (None without queries) and the state after the last valid token.
    """

    def mini_batch(state, tokens):
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
            weights = weights_at_slot(state._replace(gradients=so_far), scale)
            return read_out(learner, weights, norm, query_F)

        so_far = jax.tree.map(
            lambda g, carried: carried + jnp.cumsum(g, 0), gradients, state.gradients
        )
        return after, jax.vmap(output)(tokens.query, slot_scale_b[: len(tokens.key)], so_far)

    return scan_mini_batches(mini_batch, state, tokens, len(slot_scale_b), aligned)
