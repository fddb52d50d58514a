"""The inner learners f(x; W), whose weights are the hidden state, and the loss that trains them at every token.

To add one: `InnerLearner(init, apply)` with any pytree of weights, and an entry in INNER_LEARNERS;
scan.py and stream.py then take it as it is. Stacks of affine maps have the faster dual form too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

FastWeights = Any  # a pytree of arrays


class InnerLearner(NamedTuple):
    """A small model: `init(key, width, std)` gives its weights W_0, `apply(weights, x_F)` its output [F]."""

    init: Callable[[jax.Array, int, float], FastWeights]
    apply: Callable[[FastWeights, jax.Array], jax.Array]
    is_affine_stack: bool = False


class Norm(NamedTuple):
    """Scale and bias [F] of the layer norm on the inner learner's output."""

    scale: jax.Array
    bias: jax.Array


def layer_norm(x, norm: Norm, eps: float = 1e-6):
    """Layer norm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * norm.scale
        + norm.bias
    )


def gelu(x):
    """GELU by its tanh approximation, as in the TTT paper's code."""
    return jax.nn.gelu(x, approximate=True)


def affine_stack(expansion: tuple[int, ...]) -> InnerLearner:
    """Affine maps with GELU in between; `expansion` gives the hidden widths in multiples of F.

    Weights: a tuple of (W [in, out], b [out]). Sun et al. 2024 (arXiv:2407.04620), section 2.7:
    none is TTT-Linear, one of 4 is TTT-MLP.
    """

    def init(key, width, std):
        widths = [width, *(width * e for e in expansion), width]
        keys = jax.random.split(key, len(widths) - 1)
        shapes = zip(keys, widths[:-1], widths[1:], strict=True)
        return tuple((std * jax.random.normal(k, (i, o)), jnp.zeros(o)) for k, i, o in shapes)

    def apply(weights, x):
        for depth, (w, b) in enumerate(weights):
            x = (gelu(x) if depth else x) @ w + b
        return x

    return InnerLearner(init, apply, is_affine_stack=True)


INNER_LEARNERS = {"linear": affine_stack(()), "mlp": affine_stack((4,))}


def inner_loss(learner: InnerLearner, weights: FastWeights, norm: Norm, key_F, value_F):
    """The self-supervised loss of one token, 1/2 || LN(f(k; W)) - (v - k) ||^2: reconstruct the value from the key."""
    return (
        0.5 * jnp.square(layer_norm(learner.apply(weights, key_F), norm) - (value_F - key_F)).sum()
    )


def read_out(learner: InnerLearner, weights: FastWeights, norm: Norm, query_F):
    """The output of one token, q + LN(f(q; W)), under the fast weights that it sees."""
    return query_F + layer_norm(learner.apply(weights, query_F), norm)
