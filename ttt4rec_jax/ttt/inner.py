"""The inner learners f(x; W), whose weights are the hidden state, and the loss that trains them.

To add an inner learner, write an `InnerLearner(init, apply)` with any pytree of weights and add it
to INNER_LEARNERS; scan.py and stream.py support it without change. Stacks of affine maps also have
the faster dual form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FastWeights = Any  # a pytree of arrays


class InnerLearner(NamedTuple):
    """A small model: `init(key, width, std)` returns W_0, `apply(W, x_F)` the output [F]."""

    init: Callable[[jax.Array, int, float | jax.Array], FastWeights]
    apply: Callable[[FastWeights, jax.Array], jax.Array]
    is_affine_stack: bool = False


class Norm(NamedTuple):
    """Scale and bias of a layer norm: [F] for the one on the inner learner's output."""

    scale: jax.Array
    bias: jax.Array


def layer_norm(
    x: Float[Array, "*rows F"], norm: Norm, eps: float = 1e-6
) -> Float[Array, "*rows F"]:
    """Return the layer norm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * norm.scale
        + norm.bias
    )


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return GELU by its tanh approximation, as in the TTT paper's code."""
    return jax.nn.gelu(x, approximate=True)


def apply_affine_stack(weights: FastWeights, x: Float[Array, "*rows F"]) -> Float[Array, "*rows F"]:
    """Return the output of affine maps (W, b) with GELU in between."""
    for depth, (w, b) in enumerate(weights):
        x = (gelu(x) if depth else x) @ w + b
    return x


def affine_stack(expansion: tuple[int, ...]) -> InnerLearner:
    """Return affine maps with GELU in between. expansion: the hidden widths in multiples of F.

    The weights are a tuple of (W [in, out], b [out]). TTT-Linear has no hidden layer, TTT-MLP has
    one of width 4 F (Sun et al. 2024, arXiv:2407.04620, section 2.7).
    """

    def init(key, width, std):
        widths = [width, *(width * e for e in expansion), width]
        keys = jax.random.split(key, len(widths) - 1)
        shapes = zip(keys, widths[:-1], widths[1:], strict=True)
        return tuple((std * jax.random.normal(k, (i, o)), jnp.zeros(o)) for k, i, o in shapes)

    return InnerLearner(init, apply_affine_stack, is_affine_stack=True)


INNER_LEARNERS = {"linear": affine_stack(()), "mlp": affine_stack((4,))}


def inner_loss(
    learner: InnerLearner,
    weights: FastWeights,
    norm: Norm,
    key_F: Float[Array, " F"],
    value_F: Float[Array, " F"],
) -> Float[Array, ""]:
    """Return the self-supervised loss of one token, 1/2 || LN(f(k; W)) - (v - k) ||^2.

    The inner learner reconstructs the value from the key.
    """
    return (
        0.5 * jnp.square(layer_norm(learner.apply(weights, key_F), norm) - (value_F - key_F)).sum()
    )


def read_out(
    learner: InnerLearner, weights: FastWeights, norm: Norm, query_F: Float[Array, " F"]
) -> Float[Array, " F"]:
    """Return the output of one token, q + LN(f(q; W)), under the fast weights W."""
    return query_F + layer_norm(learner.apply(weights, query_F), norm)
