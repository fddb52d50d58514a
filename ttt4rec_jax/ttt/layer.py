"""The TTT layer as a Flax module: projections, rotary embedding, inner learning rates and norms around the core."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttt4rec_jax.ttt.chunked import pick, ttt_chunked
from ttt4rec_jax.ttt.dual import ttt_dual
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, Norm, gelu, layer_norm, read_out
from ttt4rec_jax.ttt.scan import State, Tokens, initial_state, seen_weights, ttt_scan
from ttt4rec_jax.ttt.stream import ttt_step

CONV_WIDTH = 4  # of the mamba backbone's convolutions, as in the TTT paper's code


@dataclasses.dataclass(frozen=True, kw_only=True)
class TttConfig:
    """Shape and constants of a TTT layer, known when it is traced.

    `impl`: "scan" (the definition), "dual" (stacks of affine maps), "chunked" (linear) or "auto", the fastest; equal in
    everything but speed. `chunk` is chunked's, 0 for the fastest. `backbone`: "transformer" or "mamba", see TttLayer.
    """

    dim: int
    num_heads: int
    mini_batch_size: int
    inner: str = "linear"
    inner_learning_rate: float = 1.0
    rope_theta: float = 10000.0
    impl: str = "auto"
    chunk: int = 0
    backbone: str = "transformer"


class Ranges(NamedTuple):
    """Standard deviations of a TTT layer's initial parameters, and of its inner learner's W_0; numbers or arrays."""

    initializer_range: float | jax.Array = 0.02
    w0_range: float | jax.Array = 0.02


class LayerState(NamedTuple):
    """The hidden state of a layer: of every head [H, ...], and the rows that convolutions will look back at."""

    heads: State
    recent: jax.Array | None  # the last CONV_WIDTH - 1 rows of x theta_qk, 0 before the first token; None if transformer


def evens_first(x, axis: int):
    """The features of an axis in the order 0, 2, 4, ..., 1, 3, 5, ..."""
    axis %= x.ndim
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    return pairs.swapaxes(axis, axis + 1).reshape(x.shape)


def rotate(x_LxF, positions_L, theta: float):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) on features with evens first.

    So the pairs (0, 1), (2, 3), ... lie half a width apart, and turning them shuffles nothing.
    """
    width = x_LxF.shape[-1]
    # known positions make sines that are constants: traced ones are computed anew wherever XLA fuses them
    xp = np if isinstance(positions_L, np.ndarray) else jnp
    angles = positions_L[:, None] * theta ** (-np.arange(0, width, 2, dtype=x_LxF.dtype) / width)
    cos, sin = (jnp.asarray(table, x_LxF.dtype) for table in (xp.cos(angles), xp.sin(angles)))
    even, odd = x_LxF[:, : width // 2], x_LxF[:, width // 2 :]
    return jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], -1)


def convolve(rows, kernel, bias_D):
    """Causal depthwise convolution: row i of the result [L, D] is bias + sum over j of kernel_j * rows_(i + j).

    Args: kernel [width, D]; rows [width - 1 + L, D], the first width - 1 being those before the sequence.
    """
    # so few shifted products are one fused loop, forwards and backwards: nothing is gained by a library's convolution
    length = len(rows) - len(kernel) + 1
    return bias_D + sum(kernel[j] * rows[j : j + length] for j in range(len(kernel)))


class TttLayer(nnx.Module):
    """A sequence layer whose hidden state is a small model, trained at every token (Sun et al. 2024, arXiv:2407.04620).

    backbone "transformer": queries x theta_q and keys x theta_k. backbone "mamba" (section 2.7 and figure 13): queries and
    keys are two causal depthwise convolutions, with biases, of one projection x theta_qk, and the post-normed output is
    multiplied by gelu(x theta_g) before theta_o. Kernels begin Lecun-normal, whatever the ranges. As in the paper's code,
    but that there a block also adds a convolution of its normed input to its input, before this layer's norm (pre_conv).

    Rotary embedding turns interleaved feature pairs. Where there is any (mini_batch_size > 1), everything of a head is kept
    with evens first, parameters as they are read and states: a reordering of parameters is cheaper than one of tokens.
    """

    def __init__(self, config: TttConfig, rngs: nnx.Rngs, ranges: Ranges = Ranges()):
        D, H, F = config.dim, config.num_heads, config.dim // config.num_heads
        self.config = config

        def normal(*shape):
            return nnx.Param(ranges.initializer_range * jax.random.normal(rngs.params(), shape))

        if config.backbone == "mamba":
            self.theta_qk, self.theta_g = normal(D, D), normal(D, D)
            lecun = jax.nn.initializers.lecun_normal()
            self.conv_q_kernel, self.conv_k_kernel = (nnx.Param(lecun(rngs.params(), (CONV_WIDTH, D))) for _ in range(2))
            self.conv_q_bias, self.conv_k_bias = nnx.Param(jnp.zeros(D)), nnx.Param(jnp.zeros(D))
        else:
            self.theta_q, self.theta_k = normal(D, D), normal(D, D)
        self.theta_v, self.theta_o = normal(D, D), normal(D, D)
        keys = jax.random.split(rngs.params(), H)
        init = INNER_LEARNERS[config.inner].init
        self.fast_weights = nnx.data(jax.tree.map(nnx.Param, jax.vmap(lambda key: init(key, F, ranges.w0_range))(keys)))
        self.inner_norm_scale, self.inner_norm_bias = nnx.Param(jnp.ones((H, F))), nnx.Param(jnp.zeros((H, F)))
        self.lr_gate_kernel, self.lr_gate_bias = normal(H, D, 1), nnx.Param(jnp.zeros((H, 1)))
        self.token_index_offset = nnx.Param(jnp.zeros(config.mini_batch_size))
        self.post_norm_scale, self.post_norm_bias = nnx.Param(jnp.ones(D)), nnx.Param(jnp.zeros(D))

    # --- the parts that every way of running the layer shares

    def initial_state(self) -> LayerState:
        """The state before the first token."""
        weights = jax.tree.map(lambda p: p[...], self.fast_weights, is_leaf=is_param)
        if INNER_LEARNERS[self.config.inner].is_affine_stack:  # other learners' weights have no order to keep
            (w, b), *rest = weights
            *between, (last_w, last_b) = ((self._ordered(w, 1), b), *rest)
            weights = (*between, (self._ordered(last_w, 2), self._ordered(last_b, 1)))
        heads = initial_state(weights)._replace(filled=jnp.zeros(self.config.num_heads, jnp.int32))
        if self.config.backbone != "mamba":
            return LayerState(heads, None)
        return LayerState(heads, jnp.zeros((CONV_WIDTH - 1, self.config.dim), self.theta_qk.dtype))

    def _ordered(self, x, axis: int):
        """x with an axis of a head's features in the order that the core works in."""
        return x if self.config.mini_batch_size == 1 else evens_first(x, axis)

    def _columns(self, p):
        """A parameter [..., D] with the features of each head in order."""
        return self._ordered(p.reshape(*p.shape[:-1], self.config.num_heads, -1), -1).reshape(p.shape)

    def _norm(self) -> Norm:
        return Norm(self._ordered(self.inner_norm_scale[...], 1), self._ordered(self.inner_norm_bias[...], 1))

    def _slot_scale(self):
        """max(1/i + offset_i, 0) for slot i = 1..b of a mini-batch [b]."""
        slot = jnp.arange(1, self.config.mini_batch_size + 1, dtype=self.token_index_offset.dtype)
        return jnp.maximum(1 / slot + self.token_index_offset[...], 0)

    def _rate(self, x_LxD):
        """Inner learning rates [H, L] of the tokens: inner_learning_rate / F * sigmoid(gate)."""
        gate_LxH = x_LxD @ self.lr_gate_kernel[..., 0].T + self.lr_gate_bias[..., 0]
        width = self.config.dim // self.config.num_heads
        return self.config.inner_learning_rate / width * jax.nn.sigmoid(gate_LxH.T)

    def _project(self, x_LxD, theta):
        """x theta [L, D]."""
        return x_LxD @ self._columns(theta)

    def _split_heads(self, rows_LxD, slot_L=None):
        """The heads' parts of projected rows [H, L, F]; rotated if slots are given."""
        heads_HxLxF = rows_LxD.reshape(len(rows_LxD), self.config.num_heads, -1).transpose(1, 0, 2)
        if slot_L is None or self.config.mini_batch_size == 1:  # slot 0 everywhere turns nothing
            return heads_HxLxF
        return jax.vmap(lambda x: rotate(x, slot_L, self.config.rope_theta))(heads_HxLxF)

    def _queries_and_keys(self, x_LxD, length, recent, read):
        """Of one sequence, not yet rotated: queries at the positions `read`, all keys [L, D], and the next state's `recent`.

        `read` is a slice of everything or an array of one position.
        """
        if self.config.backbone != "mamba":
            return self._project(x_LxD[read], self.theta_q), self._project(x_LxD, self.theta_k), None
        rows = jnp.concatenate([recent, self._project(x_LxD, self.theta_qk)])  # position i is row i + CONV_WIDTH - 1
        seen = rows if isinstance(read, slice) else rows[read + np.arange(CONV_WIDTH)]
        return (
            convolve(seen, self._columns(self.conv_q_kernel), self._columns(self.conv_q_bias)),
            convolve(rows, self._columns(self.conv_k_kernel), self._columns(self.conv_k_bias)),
            jax.lax.dynamic_slice_in_dim(rows, length, CONV_WIDTH - 1),
        )

    def _mix_heads(self, outputs_HxLxF, x_LxD):
        """Concatenated heads [L, D] through the post norm, the gate that the inputs x open, and the output projection."""
        H, L, F = outputs_HxLxF.shape
        joined_LxD = outputs_HxLxF.transpose(1, 0, 2).reshape(L, H * F)
        scale, bias, theta_o = (
            self._ordered(p.reshape(H, F, -1), 1).reshape(p.shape)
            for p in (self.post_norm_scale, self.post_norm_bias, self.theta_o)
        )
        normed_LxD = layer_norm(joined_LxD, Norm(scale, bias))
        if self.config.backbone == "mamba":
            normed_LxD *= gelu(self._project(x_LxD, self.theta_g))
        return normed_LxD @ theta_o

    # --- three ways of running it

    def sequence(self, x_LxD, length, state: LayerState | None = None, last_only: bool = False):
        """Runs one sequence whose first `length` positions are valid.

        Args: x_LxD inputs; state None for the initial one; last_only reads out nothing but the last valid position,
            which costs about half.
        Returns: (outputs [L, D], or [1, D] if last_only; state after the last valid token).
        """
        aligned = state is None
        state = self.initial_state() if aligned else state
        tokens, recent, read_x, last = self._tokens(x_LxD, length, state, aligned, last_only)
        head = self._core(len(x_LxD), aligned, last_only)
        outputs, heads = jax.vmap(head, in_axes=(0, 0, 0, None))(self._norm(), state.heads, tokens, last)
        return self._mix_heads(outputs, read_x), LayerState(heads, recent)

    def __call__(self, x_BxLxD, length_B, last_only: bool = False):
        """Outputs [B, L, D] (or [B, 1, D] if last_only) of a batch of sequences from the initial state."""
        start = self.initial_state()
        tokens, _, read_x, last_B = jax.vmap(lambda x, n: self._tokens(x, n, start, True, last_only))(x_BxLxD, length_B)
        # heads outside the batch: a head's weights then meet all its sequences in one matrix product
        head = jax.vmap(self._core(x_BxLxD.shape[1], True, last_only), in_axes=(None, None, 0, 0))
        outputs, _ = jax.vmap(head, in_axes=(0, 0, 1, None))(self._norm(), start.heads, tokens, last_B)
        return jax.vmap(self._mix_heads, in_axes=(1, 0))(outputs, read_x)

    def _tokens(self, x_LxD, length, state: LayerState, aligned: bool, last_only: bool):
        """What the heads derive from one sequence [H, ...], and what else running it takes.

        Returns: (tokens; the next state's `recent`; the inputs at the positions that are read out; the last valid position).
        """
        valid_L = jnp.arange(len(x_LxD)) < length
        x_LxD = jnp.where(valid_L[:, None], x_LxD, 0)  # what stands in padding, even NaN, must not matter
        position_L = np.arange(len(x_LxD)) if aligned else state.heads.filled[0] + jnp.arange(len(x_LxD))
        slot_L = position_L % self.config.mini_batch_size
        last = jnp.maximum(length - 1, 0)
        read, read_slot = (last[None], jnp.asarray(slot_L)[last][None]) if last_only else (slice(None), slot_L)
        query, key, recent = self._queries_and_keys(x_LxD, length, state.recent, read)
        tokens = Tokens(
            self._split_heads(query, read_slot),
            self._split_heads(key, slot_L),
            self._split_heads(self._project(x_LxD, self.theta_v)),
            jnp.where(valid_L, self._rate(x_LxD), 0),
            jnp.broadcast_to(valid_L, (self.config.num_heads, len(valid_L))),
        )
        return tokens, recent, x_LxD[read], last

    def _core(self, length: int, aligned: bool, last_only: bool):
        """The function (norm, state, tokens, last) -> (outputs, state) of one sequence and head."""
        config, learner, slot_scale_b = self.config, INNER_LEARNERS[self.config.inner], self._slot_scale()
        impl, chunk = pick(length, config.mini_batch_size, config.inner)
        impl = impl if config.impl == "auto" else config.impl
        core = ttt_dual if impl == "dual" else partial(ttt_scan, learner)
        if impl == "chunked":
            core = partial(ttt_chunked, chunk=config.chunk or chunk)

        def head(norm, state, tokens, last):
            if not last_only:
                return core(norm, slot_scale_b, state, tokens, aligned)
            if impl == "chunked":
                return core(norm, slot_scale_b, state, tokens, aligned, last=last)
            slot = (state.filled + last) % len(slot_scale_b)
            _, state = core(norm, slot_scale_b, state, tokens._replace(query=None), aligned)
            # a full mini-batch has been carried into the weights already and left no gradients: nothing is subtracted twice
            return read_out(learner, seen_weights(state, slot_scale_b[slot]), norm, tokens.query[0])[None], state

        return head

    def step(self, x_D, state: LayerState):
        """One more valid token of one sequence: (output [D], state)."""
        tokens, recent, x_1xD, _ = self._tokens(x_D[None], 1, state, aligned=False, last_only=False)
        q, k, v, rate = (x[:, 0] for x in tokens[:4])
        advance_head = jax.vmap(partial(ttt_step, INNER_LEARNERS[self.config.inner]), in_axes=(0, None, 0, 0, 0, 0, 0))
        heads, outputs_HxF = advance_head(self._norm(), self._slot_scale(), state.heads, q, k, v, rate)
        return self._mix_heads(outputs_HxF[:, None], x_1xD)[0], LayerState(heads, recent)


def is_param(x) -> bool:
    """Whether a node of a module's tree is a parameter."""
    return isinstance(x, nnx.Param)
