"""The TTT layer's forward pass as pure functions of (parameters, inputs, config).

A sequence passes through `project` (the linear maps of its inputs), `tokens_of_heads` (the inputs
of each head's core), `run_head` (the core of one head) and `mix_heads`. `batch`, `sequence` and
`step` are the three ways to run the layer. All but `batch` work on one sequence.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ttt4rec_jax.ttt.chunked import ttt_chunked
from ttt4rec_jax.ttt.dual import ttt_dual
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, Norm, gelu, layer_norm, read_out
from ttt4rec_jax.ttt.matmul import project as batch_matmul
from ttt4rec_jax.ttt.params import CONV_WIDTH, Convolution, CoreParams, LayerState, TttConfig
from ttt4rec_jax.ttt.rope import rotate
from ttt4rec_jax.ttt.scan import State, Tokens, initial_state, ttt_scan, weights_at_slot
from ttt4rec_jax.ttt.select import chosen_impl
from ttt4rec_jax.ttt.stream import ttt_step

Length = int | Int[Array, ""]
Product = Callable[[jax.Array, jax.Array], jax.Array]


class Projected(NamedTuple):
    """Linear maps of a layer's inputs; rows are [..., L, D] unless said otherwise."""

    query: jax.Array | None  # at the positions that are read; None for mamba
    key: jax.Array
    value: jax.Array
    rate_gate: jax.Array  # [..., L, H]
    output_gate: jax.Array | None  # mamba's, at the positions that are read


# --- the three ways to run the layer


def first_state(p: CoreParams, config: TttConfig) -> LayerState:
    """Return the state before the first token."""
    heads = initial_state(p.w0)._replace(filled=jnp.zeros(config.num_heads, jnp.int32))
    if p.mamba is None:
        return LayerState(heads, None)
    return LayerState(heads, jnp.zeros((CONV_WIDTH - 1, config.dim), p.theta_k.dtype))


def batch(
    p: CoreParams,
    x_BxLxD: Float[Array, "B L D"],
    length_B: Int[Array, " B"],
    config: TttConfig,
    last_only: bool = False,
) -> Float[Array, "B L_or_1 D"]:
    """Return the outputs of sequences from the initial state: [B, L, D], [B, 1, D] if last_only."""
    start = first_state(p, config)
    x_BxLxD, read_x = jax.vmap(partial(only_valid, last_only=last_only))(x_BxLxD, length_B)
    projected = project(p, x_BxLxD, read_x, batch_matmul)

    def of_sequence(projected, length):
        tokens, _ = tokens_of_heads(p, projected, length, start.recent, config, last_only)
        return tokens, last_position(length) if last_only else None

    tokens, last_B = jax.vmap(of_sequence)(projected, length_B)

    def head(norm, state, tokens, last):
        return run_head(norm, p.slot_scale_b, state, tokens, last, config, aligned=True)[0]

    # the axis of heads is outside the batch, so that one matrix product serves all sequences of a
    # head
    of_batch = jax.vmap(head, in_axes=(None, None, 0, 0))
    outputs = jax.vmap(of_batch, in_axes=(0, 0, 1, None))(p.inner_norm, start.heads, tokens, last_B)
    return mix_heads(p, outputs, projected.output_gate, batch_matmul)


def sequence(
    p: CoreParams,
    x_LxD: Float[Array, "L D"],
    length: Length,
    config: TttConfig,
    state: LayerState | None = None,
    last_only: bool = False,
) -> tuple[Float[Array, "L_or_1 D"], LayerState]:
    """Run one sequence whose first `length` positions are valid.

    state: the state to start from; None for the initial state.
    Returns: (outputs [L, D], or [1, D] of the last valid position if last_only, which costs about
    half; the state after the last valid token).
    """
    aligned = state is None
    start = first_state(p, config) if state is None else state
    x_LxD, read_x = only_valid(x_LxD, length, last_only)
    projected = project(p, x_LxD, read_x)
    tokens, recent = tokens_of_heads(p, projected, length, start.recent, config, last_only)
    last = last_position(length) if last_only else None

    def head(norm, state, tokens):
        return run_head(norm, p.slot_scale_b, state, tokens, last, config, aligned)

    outputs, heads = jax.vmap(head)(p.inner_norm, start.heads, tokens)
    return mix_heads(p, outputs, projected.output_gate), LayerState(heads, recent)


def step(
    p: CoreParams, x_D: Float[Array, " D"], state: LayerState, config: TttConfig
) -> tuple[Float[Array, " D"], LayerState]:
    """Process one more valid token of one sequence, and return (output [D], the next state)."""
    projected = project(p, x_D[None], x_D[None])
    tokens, recent = tokens_of_heads(p, projected, 1, state.recent, config, last_only=False)

    def head(norm, state, tokens):
        tokens = rotate_tokens(tokens, state.filled, None, config)
        q, k, v, rate = (x[0] for x in tokens[:4])
        learner = INNER_LEARNERS[config.inner]
        return ttt_step(learner, norm, p.slot_scale_b, state, q, k, v, rate)

    heads, outputs_HxF = jax.vmap(head)(p.inner_norm, state.heads, tokens)
    output_1xD = mix_heads(p, outputs_HxF[:, None], projected.output_gate)
    return output_1xD[0], LayerState(heads, recent)


# --- their parts


def last_position(length: Length) -> Int[Array, ""]:
    """Return the last valid position of a sequence, 0 for an empty one."""
    return jnp.maximum(length - 1, 0)


def only_valid(
    x_LxD: Float[Array, "L D"], length: Length, last_only: bool
) -> tuple[Float[Array, "L D"], Float[Array, "L_or_1 D"]]:
    """Return the inputs with zeros at padding, and those that are read ([L, D] or [1, D]).

    The content of the padding, even NaN, must have no effect.
    """
    x_LxD = jnp.where(jnp.arange(len(x_LxD))[:, None] < length, x_LxD, 0)
    return x_LxD, x_LxD[last_position(length)][None] if last_only else x_LxD


def project(
    p: CoreParams,
    x: Float[Array, "*batch L D"],
    read_x: Float[Array, "*batch L_or_1 D"],
    product: Product = jnp.matmul,
) -> Projected:
    """Return the linear maps of the inputs x, and of the inputs that are read."""
    return Projected(
        None if p.theta_q is None else product(read_x, p.theta_q),
        product(x, p.theta_k),
        product(x, p.theta_v),
        x @ p.rate_kernel.T + p.rate_bias,
        None if p.mamba is None else product(read_x, p.mamba.theta_g),
    )


def convolve(rows: Float[Array, "rows D"], convolution: Convolution) -> Float[Array, "L D"]:
    """Return a causal depthwise convolution: row i is bias + sum over j of kernel_j rows_(i + j).

    The first width - 1 of the rows [width - 1 + L, D] are those that precede the sequence.
    """
    # XLA fuses these few shifted products into one loop, forward and backward; a library
    # convolution would not be faster.
    kernel, bias_D = convolution
    length = len(rows) - len(kernel) + 1
    return bias_D + sum(kernel[j] * rows[j : j + length] for j in range(len(kernel)))


def queries_and_keys(
    p: CoreParams,
    projected: Projected,
    length: Length,
    recent: Float[Array, "width D"] | None,
    last: Int[Array, ""] | None,
) -> tuple[jax.Array | None, Float[Array, "L D"], jax.Array | None]:
    """Return one sequence's queries [L or 1, D], its keys [L, D] and the next state's `recent`.

    last: the only position that is read; None if all are.
    """
    if p.mamba is None or recent is None:
        return projected.query, projected.key, None
    rows = jnp.concatenate([recent, projected.key])  # position i is row i + CONV_WIDTH - 1
    read_rows = rows if last is None else rows[last + np.arange(CONV_WIDTH)]
    return (
        convolve(read_rows, p.mamba.conv_q),
        convolve(rows, p.mamba.conv_k),
        jax.lax.dynamic_slice_in_dim(rows, length, CONV_WIDTH - 1),
    )


def tokens_of_heads(
    p: CoreParams,
    projected: Projected,
    length: Length,
    recent: Float[Array, "width D"] | None,
    config: TttConfig,
    last_only: bool,
) -> tuple[Tokens, jax.Array | None]:
    """Return one sequence's tokens for each head [H, ...], not yet rotated; the next `recent`."""
    last = last_position(length) if last_only else None
    query, key, recent = queries_and_keys(p, projected, length, recent, last)
    valid_L = jnp.arange(len(key)) < length

    def split_heads(rows_LxD):  # -> [H, L, F]
        return rows_LxD.reshape(len(rows_LxD), config.num_heads, -1).transpose(1, 0, 2)

    # inner learning rates: inner_learning_rate / F * sigmoid(gate)
    scale = config.inner_learning_rate / (config.dim // config.num_heads)
    rate_HxL = scale * jax.nn.sigmoid(projected.rate_gate.T)
    tokens = Tokens(
        split_heads(query),
        split_heads(key),
        split_heads(projected.value),
        jnp.where(valid_L, rate_HxL, 0),
        jnp.broadcast_to(valid_L, (config.num_heads, len(valid_L))),
    )
    return tokens, recent


def rotate_tokens(
    tokens: Tokens, first: Length, last: Int[Array, ""] | None, config: TttConfig
) -> Tokens:
    """Return one head's tokens with queries and keys rotated by their slots.

    Args:
        first: The slot of the first token.
        last: The position of the only query; None if there are queries at every position.

    The rotation is computed per head, so that it also brings the features into the layout with the
    axis of heads outside the batch.
    """
    if config.mini_batch_size == 1:  # every token is in slot 0, which rotates nothing
        return tokens
    arange = np.arange if isinstance(first, int) else jnp.arange
    slot_L = (first + arange(len(tokens.key))) % config.mini_batch_size
    read_slot = slot_L if last is None else jnp.asarray(slot_L)[last][None]
    turn = partial(rotate, theta=config.rope_theta)
    query = None if tokens.query is None else turn(tokens.query, read_slot)
    return tokens._replace(query=query, key=turn(tokens.key, slot_L))


def run_head(
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    state: State,
    tokens: Tokens,
    last: Int[Array, ""] | None,
    config: TttConfig,
    aligned: bool,
) -> tuple[Float[Array, "L_or_1 F"] | None, State]:
    """Run the core on one sequence and one head: return (outputs, the state after the last token).

    Args:
        last: The position of the only query; None if every position is read.
        aligned: Whether the state is at the start of a mini-batch.

    Without queries, the outputs are None.
    """
    tokens = rotate_tokens(tokens, 0 if aligned else state.filled, last, config)
    impl, chunk = chosen_impl(config, len(tokens.key))
    if impl == "chunked":
        return ttt_chunked(norm, slot_scale_b, state, tokens, aligned, chunk, last)
    learner = INNER_LEARNERS[config.inner]
    core = ttt_dual if impl == "dual" else partial(ttt_scan, learner)
    if last is None or tokens.query is None:
        return core(norm, slot_scale_b, state, tokens, aligned)
    slot = (state.filled + last) % len(slot_scale_b)
    _, after = core(norm, slot_scale_b, state, tokens._replace(query=None), aligned)
    # a full mini-batch has already been applied to the weights and left no gradients, so that
    # nothing is subtracted twice
    weights = weights_at_slot(after, slot_scale_b[slot])
    return read_out(learner, weights, norm, tokens.query[0])[None], after


def mix_heads(
    p: CoreParams,
    outputs: Float[Array, "H *rows F"],
    gate: Float[Array, "*rows D"] | None,
    product: Product = jnp.matmul,
) -> Float[Array, "*rows D"]:
    """Return the joined heads after the post-norm, mamba's gate and the output projection."""
    width = outputs.shape[0] * outputs.shape[-1]
    joined = jnp.moveaxis(outputs, 0, -2).reshape(*outputs.shape[1:-1], width)
    normed = layer_norm(joined, p.post_norm)
    return product(normed if gate is None else normed * gelu(gate), p.theta_o)
