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
from ttt4rec_jax.ttt.matmul import project
from ttt4rec_jax.ttt.scan import State, Tokens, initial_state, seen_weights, ttt_scan
from ttt4rec_jax.ttt.stream import ttt_step

CONV_WIDTH = 4  # of the mamba backbone's convolutions, as in the TTT paper's code


@dataclasses.dataclass(frozen=True, kw_only=True)
class TttConfig:
    """Shape and constants of a TTT layer, known when it is traced.

    `impl`: "scan" (the definition), "dual" (stacks of affine maps), "chunked" (linear) or "auto",
    the fastest; equal in everything but speed. `chunk` is chunked's, 0 for the fastest. `backbone`:
    "transformer" or
    "mamba", see TttLayer.
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
    recent: (
        jax.Array | None
    )  # the last CONV_WIDTH - 1 rows of x theta_qk, 0 before the first token; None if transformer


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
    # known positions make sines that are constants: traced ones are computed anew wherever XLA
    # fuses them
    xp = np if isinstance(positions_L, np.ndarray) else jnp
    angles = positions_L[:, None] * theta ** (-np.arange(0, width, 2, dtype=x_LxF.dtype) / width)
    cos, sin = (jnp.asarray(table, x_LxF.dtype) for table in (xp.cos(angles), xp.sin(angles)))
    even = x_LxF[:, : width // 2]
    odd = x_LxF[:, width // 2 :]
    return jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], -1)


def convolve(rows, kernel, bias_D):
    """Causal depthwise convolution: row i of the result [L, D] is bias + sum over j of kernel_j * rows_(i + j).

    Args: kernel [width, D]; rows [width - 1 + L, D], the first width - 1 being those before the
    sequence.
    """
    # so few shifted products are one fused loop, forwards and backwards: nothing is gained by a
    # library's convolution
    length = len(rows) - len(kernel) + 1
    return bias_D + sum(kernel[j] * rows[j : j + length] for j in range(len(kernel)))


def only_valid(x_LxD, length, last_only: bool):
    """The inputs, 0 where they are padding (even NaN there must not matter), and those that are read out [L or 1, D]."""
    x_LxD = jnp.where(jnp.arange(len(x_LxD))[:, None] < length, x_LxD, 0)
    return x_LxD, x_LxD[jnp.maximum(length - 1, 0)][None] if last_only else x_LxD


class Projected(NamedTuple):
    """Linear maps of a layer's inputs; rows are [..., L, D] unless said otherwise."""

    query: (
        jax.Array | None
    )  # at the positions that are read out; None if queries come of `key`, as mamba's do
    key: jax.Array
    value: jax.Array
    rate_gate: jax.Array  # [..., L, H]
    read_gate: jax.Array | None  # mamba's gate, at the positions that are read out


class TttLayer(nnx.Module):
    """A sequence layer whose hidden state is a small model, trained at every token (Sun et al. 2024, arXiv:2407.04620).

    backbone "transformer": queries x theta_q and keys x theta_k. backbone "mamba" (section 2.7 and
    figure 13): queries and keys are two causal depthwise convolutions, with biases, of one
    projection x theta_qk, and the post-normed output is multiplied by gelu(x theta_g) before
    theta_o. Kernels begin Lecun-normal, whatever the ranges. As in the paper's code, but that there
    a block also adds a convolution of its normed input to its input, before this layer's norm
    (pre_conv).

    Rotary embedding turns interleaved feature pairs. Where there is any (mini_batch_size > 1),
    everything of a head is kept
    with evens first, parameters as they are read and states: a reordering of parameters is cheaper
    than one of tokens.
    """

    def __init__(self, config: TttConfig, rngs: nnx.Rngs, ranges: Ranges = Ranges()):
        D = config.dim
        H = config.num_heads
        F = config.dim // config.num_heads
        self.config = config

        def normal(*shape):
            return nnx.Param(ranges.initializer_range * jax.random.normal(rngs.params(), shape))

        if config.backbone == "mamba":
            self.theta_qk = normal(D, D)
            self.theta_g = normal(D, D)
            lecun = jax.nn.initializers.lecun_normal()
            self.conv_q_kernel, self.conv_k_kernel = (
                nnx.Param(lecun(rngs.params(), (CONV_WIDTH, D))) for _ in range(2)
            )
            self.conv_q_bias = nnx.Param(jnp.zeros(D))
            self.conv_k_bias = nnx.Param(jnp.zeros(D))
        else:
            self.theta_q = normal(D, D)
            self.theta_k = normal(D, D)
        self.theta_v = normal(D, D)
        self.theta_o = normal(D, D)
        keys = jax.random.split(rngs.params(), H)
        init = INNER_LEARNERS[config.inner].init
        self.fast_weights = nnx.data(
            jax.tree.map(nnx.Param, jax.vmap(lambda key: init(key, F, ranges.w0_range))(keys))
        )
        self.inner_norm_scale = nnx.Param(jnp.ones((H, F)))
        self.inner_norm_bias = nnx.Param(jnp.zeros((H, F)))
        self.lr_gate_kernel = normal(H, D, 1)
        self.lr_gate_bias = nnx.Param(jnp.zeros((H, 1)))
        self.token_index_offset = nnx.Param(jnp.zeros(config.mini_batch_size))
        self.post_norm_scale = nnx.Param(jnp.ones(D))
        self.post_norm_bias = nnx.Param(jnp.zeros(D))

    # --- the parts that every way of running the layer shares

    def initial_state(self) -> LayerState:
        """The state before the first token."""
        weights = jax.tree.map(lambda p: p[...], self.fast_weights, is_leaf=is_param)
        if INNER_LEARNERS[
            self.config.inner
        ].is_affine_stack:  # other learners' weights have no order to keep
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
        return self._ordered(p.reshape(*p.shape[:-1], self.config.num_heads, -1), -1).reshape(
            p.shape
        )

    def _norm(self) -> Norm:
        return Norm(
            self._ordered(self.inner_norm_scale[...], 1),
            self._ordered(self.inner_norm_bias[...], 1),
        )

    def _slot_scale(self):
        """max(1/i + offset_i, 0) for slot i = 1..b of a mini-batch [b]."""
        slot = jnp.arange(1, self.config.mini_batch_size + 1, dtype=self.token_index_offset.dtype)
        return jnp.maximum(1 / slot + self.token_index_offset[...], 0)

    def _rate(self, gate_LxH):
        """Inner learning rates [H, L] of the tokens: inner_learning_rate / F * sigmoid(gate)."""
        width = self.config.dim // self.config.num_heads
        return self.config.inner_learning_rate / width * jax.nn.sigmoid(gate_LxH.T)

    def _project(self, x, read_x, product=jnp.matmul) -> Projected:
        """All that is linear in the inputs x [..., L, D], and in those of them that are read out."""
        is_mamba = self.config.backbone == "mamba"
        return Projected(
            None if is_mamba else product(read_x, self._columns(self.theta_q)),
            product(x, self._columns(self.theta_qk if is_mamba else self.theta_k)),
            product(x, self._columns(self.theta_v)),
            x @ self.lr_gate_kernel[..., 0].T + self.lr_gate_bias[..., 0],
            product(read_x, self._columns(self.theta_g)) if is_mamba else None,
        )

    def _split_heads(self, rows_LxD):
        """The heads' parts of projected rows [H, L, F]."""
        return rows_LxD.reshape(len(rows_LxD), self.config.num_heads, -1).transpose(1, 0, 2)

    def _rotate(self, tokens: Tokens, first, last=None):
        """One head's queries and keys turned by their slots; `first` is the first token's, `last` where the only query is.

        Here and not before: where heads lie outside the batch, what turns the features then also
        puts them in that order.
        """
        if self.config.mini_batch_size == 1:  # slot 0 everywhere turns nothing
            return tokens
        arange = np.arange if isinstance(first, int) else jnp.arange
        slot_L = (first + arange(len(tokens.key))) % self.config.mini_batch_size
        read_slot = slot_L if last is None else jnp.asarray(slot_L)[last][None]
        turn = partial(rotate, theta=self.config.rope_theta)
        return tokens._replace(query=turn(tokens.query, read_slot), key=turn(tokens.key, slot_L))

    def _queries_and_keys(self, projected: Projected, length, recent, read):
        """Of one sequence: queries at the positions `read`, all keys [L, D], and the next state's `recent`.

        `read` is a slice of everything or an array of one position.
        """
        if self.config.backbone != "mamba":
            return projected.query, projected.key, None
        rows = jnp.concatenate([recent, projected.key])  # position i is row i + CONV_WIDTH - 1
        seen = rows if isinstance(read, slice) else rows[read + np.arange(CONV_WIDTH)]
        return (
            convolve(seen, self._columns(self.conv_q_kernel), self._columns(self.conv_q_bias)),
            convolve(rows, self._columns(self.conv_k_kernel), self._columns(self.conv_k_bias)),
            jax.lax.dynamic_slice_in_dim(rows, length, CONV_WIDTH - 1),
        )

    def _mix_heads(self, outputs, gate, product=jnp.matmul):
        """Heads [H, ..., F], concatenated [..., D], through the post norm, mamba's gate and the output projection."""
        H = outputs.shape[0]
        F = outputs.shape[-1]
        joined = jnp.moveaxis(outputs, 0, -2).reshape(*outputs.shape[1:-1], H * F)
        scale, bias, theta_o = (
            self._ordered(p.reshape(H, F, -1), 1).reshape(p.shape)
            for p in (self.post_norm_scale, self.post_norm_bias, self.theta_o)
        )
        normed = layer_norm(joined, Norm(scale, bias))
        return product(normed if gate is None else normed * gelu(gate), theta_o)

    # --- three ways of running it

    def sequence(self, x_LxD, length, state: LayerState | None = None, last_only: bool = False):
        """Runs one sequence whose first `length` positions are valid.

        Args: x_LxD inputs; state None for the initial one; last_only reads out nothing but the last
        valid position,
            which costs about half.
        Returns: (outputs [L, D], or [1, D] if last_only; state after the last valid token).
        """
        aligned = state is None
        state = self.initial_state() if aligned else state
        x_LxD, read_x = only_valid(x_LxD, length, last_only)
        projected = self._project(x_LxD, read_x)
        tokens, recent, last = self._tokens(projected, length, state, last_only)
        head = self._core(len(x_LxD), aligned, last_only)
        outputs, heads = jax.vmap(head, in_axes=(0, 0, 0, None))(
            self._norm(), state.heads, tokens, last
        )
        return self._mix_heads(outputs, projected.read_gate), LayerState(heads, recent)

    def __call__(self, x_BxLxD, length_B, last_only: bool = False):
        """Outputs [B, L, D] (or [B, 1, D] if last_only) of a batch of sequences from the initial state."""
        start = self.initial_state()
        x_BxLxD, read_x = jax.vmap(partial(only_valid, last_only=last_only))(x_BxLxD, length_B)
        projected = self._project(x_BxLxD, read_x, project)
        tokens, _, last_B = jax.vmap(lambda p, n: self._tokens(p, n, start, last_only))(
            projected, length_B
        )
        # heads outside the batch: a head's weights then meet all its sequences in one matrix
        # product
        head = jax.vmap(self._core(x_BxLxD.shape[1], True, last_only), in_axes=(None, None, 0, 0))
        outputs, _ = jax.vmap(head, in_axes=(0, 0, 1, None))(
            self._norm(), start.heads, tokens, last_B
        )
        return self._mix_heads(outputs, projected.read_gate, project)

    def _tokens(self, projected: Projected, length, state: LayerState, last_only: bool):
        """What the heads take of one sequence [H, ...], not yet rotated; the next state's `recent`; the last valid position."""
        last = jnp.maximum(length - 1, 0)
        read = last[None] if last_only else slice(None)
        query, key, recent = self._queries_and_keys(projected, length, state.recent, read)
        valid_L = jnp.arange(len(key)) < length
        tokens = Tokens(
            self._split_heads(query),
            self._split_heads(key),
            self._split_heads(projected.value),
            jnp.where(valid_L, self._rate(projected.rate_gate), 0),
            jnp.broadcast_to(valid_L, (self.config.num_heads, len(valid_L))),
        )
        return tokens, recent, last

    def tokens(self, x_LxD, length) -> Tokens:
        """What the heads' cores take of one sequence from the initial state [H, ...]."""
        x_LxD, read_x = only_valid(x_LxD, length, last_only=False)
        tokens, *_ = self._tokens(
            self._project(x_LxD, read_x), length, self.initial_state(), last_only=False
        )
        return jax.vmap(partial(self._rotate, first=0))(tokens)

    def _core(self, length: int, aligned: bool, last_only: bool):
        """The function (norm, state, tokens, last) -> (outputs, state) of one sequence and head."""
        config = self.config
        learner = INNER_LEARNERS[self.config.inner]
        slot_scale_b = self._slot_scale()
        impl, chunk = pick(length, config.mini_batch_size, config.inner)
        impl = impl if config.impl == "auto" else config.impl
        core = ttt_dual if impl == "dual" else partial(ttt_scan, learner)
        if impl == "chunked":
            core = partial(ttt_chunked, chunk=config.chunk or chunk)

        def head(norm, state, tokens, last):
            tokens = self._rotate(
                tokens, 0 if aligned else state.filled, last if last_only else None
            )
            if not last_only:
                return core(norm, slot_scale_b, state, tokens, aligned)
            if impl == "chunked":
                return core(norm, slot_scale_b, state, tokens, aligned, last=last)
            slot = (state.filled + last) % len(slot_scale_b)
            _, state = core(norm, slot_scale_b, state, tokens._replace(query=None), aligned)
            # a full mini-batch has been carried into the weights already and left no gradients:
            # nothing is subtracted twice
            return read_out(
                learner, seen_weights(state, slot_scale_b[slot]), norm, tokens.query[0]
            )[None], state

        return head

    def step(self, x_D, state: LayerState):
        """One more valid token of one sequence: (output [D], state)."""
        projected = self._project(x_D[None], x_D[None])
        tokens, recent, _ = self._tokens(projected, 1, state, last_only=False)
        tokens = jax.vmap(self._rotate)(tokens, state.heads.filled)
        q, k, v, rate = (x[:, 0] for x in tokens[:4])
        advance_head = jax.vmap(
            partial(ttt_step, INNER_LEARNERS[self.config.inner]), in_axes=(0, None, 0, 0, 0, 0, 0)
        )
        heads, outputs_HxF = advance_head(
            self._norm(), self._slot_scale(), state.heads, q, k, v, rate
        )
        return self._mix_heads(outputs_HxF[:, None], projected.read_gate)[0], LayerState(
            heads, recent
        )


def is_param(x) -> bool:
    """Whether a node of a module's tree is a parameter."""
    return isinstance(x, nnx.Param)
