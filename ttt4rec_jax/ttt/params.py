"""The settings, the parameters and the state of a TTT layer, as forward.py takes them."""

import dataclasses
from typing import NamedTuple

import jax

from ttt4rec_jax.ttt.inner import FastWeights, Norm
from ttt4rec_jax.ttt.scan import State

CONV_WIDTH = 4  # of the mamba backbone's convolutions, as in the TTT paper's code


@dataclasses.dataclass(frozen=True, kw_only=True)
class TttConfig:
    """Shape and constants of a TTT layer, known when it is traced.

    `impl`: "scan" (the definition), "dual" (stacks of affine maps), "chunked" (TTT-Linear) or
    "auto", the fastest; they differ only in speed. `chunk` is the chunk length of "chunked", 0 for
    the fastest. `backbone`: "transformer" or "mamba", see TttLayer.
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


class Convolution(NamedTuple):
    """A causal depthwise convolution: kernel [width, D] and bias [D]."""

    kernel: jax.Array
    bias: jax.Array


class Mamba(NamedTuple):
    """The parameters that only the mamba backbone has; see TttLayer."""

    theta_g: jax.Array  # [D, D], of the gate
    conv_q: Convolution
    conv_k: Convolution


class CoreParams(NamedTuple):
    """A layer's parameters as the forward pass reads them.

    With rotary embedding, the features of each head are in half-split order everywhere; see
    layer.core_params.
    """

    theta_q: jax.Array | None  # [D, D]; None for mamba, which projects queries and keys together
    theta_k: jax.Array  # [D, D]
    theta_v: jax.Array  # [D, D]
    theta_o: jax.Array  # [D, D]
    rate_kernel: jax.Array  # [H, D]
    rate_bias: jax.Array  # [H]
    slot_scale_b: jax.Array
    inner_norm: Norm  # [H, F]
    post_norm: Norm  # [D]
    w0: FastWeights  # [H, ...]
    mamba: Mamba | None  # None for the transformer backbone


class LayerState(NamedTuple):
    """The hidden state of a layer: the states of its heads [H, ...] and `recent`.

    `recent` contains the last CONV_WIDTH - 1 rows of x theta_qk, zeros before the first token; it
    is None for the transformer backbone.
    """

    heads: State
    recent: jax.Array | None
