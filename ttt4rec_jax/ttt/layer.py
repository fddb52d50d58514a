"""The TTT layer as a Flax module, which holds the parameters; forward.py has the computation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ttt4rec_jax.ttt import forward
from ttt4rec_jax.ttt.forward import Length
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, Norm
from ttt4rec_jax.ttt.params import (
    CONV_WIDTH,
    Convolution,
    CoreParams,
    LayerState,
    Mamba,
    TttConfig,
)
from ttt4rec_jax.ttt.rope import deinterleave
from ttt4rec_jax.ttt.select import chosen_impl
from ttt4rec_jax.ttt.slices import by_slices, num_slices


class Ranges(NamedTuple):
    """Standard deviations of a TTT layer's initial parameters, of its inner learner's W_0, and of
    the gate of inner learning rates, None for the first of them.
    """

    initializer_range: float | jax.Array = 0.02
    w0_range: float | jax.Array = 0.02
    gate_range: float | jax.Array | None = None


class TttLayer(nnx.Module):
    """A sequence layer whose hidden state is a small model that is trained at every token.

    Sun et al. 2024, arXiv:2407.04620. backbone "transformer": queries x theta_q and keys x theta_k.
    backbone "mamba" (section 2.7 and figure 13): queries and keys are two causal depthwise
    convolutions, with biases, of one projection x theta_qk, and the post-normed output is
    multiplied by gelu(x theta_g) before theta_o. The kernels' initial values are Lecun-normal,
    whatever the ranges. This is the paper's code, except that a block there also adds a convolution
    of its normed input to its input, before this layer's norm (pre_conv).

    The parameters are in interleaved order (see rope.py), as in the paper's code.
    """

    def __init__(self, config: TttConfig, rngs: nnx.Rngs, ranges: Ranges = Ranges()):
        D = config.dim
        H = config.num_heads
        F = config.dim // config.num_heads
        self.config = config

        def normal(*shape, std=ranges.initializer_range):
            return nnx.Param(std * jax.random.normal(rngs.params(), shape))

        if config.backbone == "mamba":
            self.theta_qk = normal(D, D)
            self.theta_g = normal(D, D)
            lecun = jax.nn.initializers.lecun_normal()
            self.conv_q_kernel = nnx.Param(lecun(rngs.params(), (CONV_WIDTH, D)))
            self.conv_k_kernel = nnx.Param(lecun(rngs.params(), (CONV_WIDTH, D)))
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
        gate_range = ranges.initializer_range if ranges.gate_range is None else ranges.gate_range
        self.lr_gate_kernel = normal(H, D, 1, std=gate_range)
        self.lr_gate_bias = nnx.Param(jnp.zeros((H, 1)))
        self.token_index_offset = nnx.Param(jnp.zeros(config.mini_batch_size))
        self.post_norm_scale = nnx.Param(jnp.ones(D))
        self.post_norm_bias = nnx.Param(jnp.zeros(D))

    def initial_state(self) -> LayerState:
        """Return the state before the first token."""
        return forward.first_state(core_params(self), self.config)

    def __call__(
        self,
        x_BxLxD: Float[Array, "B L D"],
        length_B: Int[Array, " B"],
        last_only: bool = False,
    ) -> Float[Array, "B L_or_1 D"]:
        """Return forward.batch: the outputs of a batch of sequences from the initial state.

        A large batch is computed by slices on a CPU; see slices.py.
        """
        p = core_params(self)
        layer = partial(forward.batch, p, config=self.config, last_only=last_only)
        widest = max(w.shape[-1] for w in [p.inner_norm.scale, *jax.tree.leaves(p.w0)])
        batch_size, length, _ = x_BxLxD.shape
        impl, _ = chosen_impl(self.config, length)
        carried = 0
        if self.config.mini_batch_size == 1 and impl != "chunked":
            carried = sum(w.size for w in jax.tree.leaves(p.w0))
        slices = num_slices(batch_size, length, self.config.num_heads * widest, carried)
        return by_slices(layer, slices, x_BxLxD, length_B)

    def sequence(
        self,
        x_LxD: Float[Array, "L D"],
        length: Length,
        state: LayerState | None = None,
        last_only: bool = False,
    ) -> tuple[Float[Array, "L_or_1 D"], LayerState]:
        """Return forward.sequence: (the outputs of one sequence from a state, the next state)."""
        return forward.sequence(core_params(self), x_LxD, length, self.config, state, last_only)

    def step(
        self, x_D: Float[Array, " D"], state: LayerState
    ) -> tuple[Float[Array, " D"], LayerState]:
        """Return forward.step: (the output of one more token, the next state)."""
        return forward.step(core_params(self), x_D, state, self.config)


def core_params(layer: TttLayer) -> CoreParams:
    """Return a layer's parameters as the forward pass reads them.

    Rotary embedding rotates pairs of neighbouring features. If it is used (mini_batch_size > 1),
    the features of each head enter the forward pass in half-split order, since reordering
    parameters is cheaper than reordering tokens. Nothing else depends on the order.
    """
    config = layer.config
    is_rotated = config.mini_batch_size > 1
    H = config.num_heads

    def ordered(x, axis):
        return deinterleave(x, axis) if is_rotated else x

    def columns(p):  # [..., D], the features of each head in order
        return ordered(p[...].reshape(*p.shape[:-1], H, -1), -1).reshape(p.shape)

    def rows(p):  # [D, ...], the features of each head in order
        return ordered(p[...].reshape(H, p.shape[0] // H, -1), 1).reshape(p.shape)

    w0 = jax.tree.map(lambda p: p[...], layer.fast_weights, is_leaf=is_param)
    if INNER_LEARNERS[config.inner].is_affine_stack:  # weights of other learners have no order
        maps = [list(affine_map) for affine_map in w0]
        maps[0][0] = ordered(maps[0][0], 1)
        maps[-1][0] = ordered(maps[-1][0], 2)
        maps[-1][1] = ordered(maps[-1][1], 1)
        w0 = tuple(map(tuple, maps))
    mamba = None
    if config.backbone == "mamba":
        mamba = Mamba(
            columns(layer.theta_g),
            Convolution(columns(layer.conv_q_kernel), columns(layer.conv_q_bias)),
            Convolution(columns(layer.conv_k_kernel), columns(layer.conv_k_bias)),
        )
    offset_b = layer.token_index_offset[...]
    slot_b = jnp.arange(1, config.mini_batch_size + 1, dtype=offset_b.dtype)
    return CoreParams(
        theta_q=None if mamba else columns(layer.theta_q),
        theta_k=columns(layer.theta_qk if mamba else layer.theta_k),
        theta_v=columns(layer.theta_v),
        theta_o=rows(layer.theta_o),
        rate_kernel=layer.lr_gate_kernel[..., 0],
        rate_bias=layer.lr_gate_bias[..., 0],
        slot_scale_b=jnp.maximum(1 / slot_b + offset_b, 0),
        inner_norm=Norm(
            ordered(layer.inner_norm_scale[...], 1), ordered(layer.inner_norm_bias[...], 1)
        ),
        post_norm=Norm(rows(layer.post_norm_scale), rows(layer.post_norm_bias)),
        w0=w0,
        mamba=mamba,
    )


def is_param(x: object) -> bool:
    """Return whether a node of a module's tree is a parameter."""
    return isinstance(x, nnx.Param)
