"""The dual form of scan.py for stacks of affine maps: no fast weights per token.

A mini-batch takes a few matrix products. The gradient of an affine map x W + b at token j is the
outer product of its input x_j and the gradient g_j at its output, so that the output of the updated
map for token i is

    x_i W + b - slot_scale_i * sum over j <= i of rate_j * (x_i . x_j + 1) g_j

(Sun et al. 2024, arXiv:2407.04620, section 2.5 and appendix A). Values and gradients are equal to
those of ttt_scan.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ttt4rec_jax.ttt.inner import FastWeights, Norm, gelu, layer_norm
from ttt4rec_jax.ttt.matmul import mean
from ttt4rec_jax.ttt.scan import State, Tokens, advance, scan_mini_batches


def output_gradient(
    z: Float[Array, "*rows F"], norm: Norm, target: Float[Array, "*rows F"], eps: float = 1e-6
) -> Float[Array, "*rows F"]:
    """Return the gradient of 1/2 || LN(z) - target ||^2 with respect to z, over the last axis."""
    centred = z - mean(z)
    inverse_std = jax.lax.rsqrt(mean(jnp.square(centred)) + eps)
    z_hat = centred * inverse_std
    g = (z_hat * norm.scale + norm.bias - target) * norm.scale
    return (g - mean(g) - z_hat * mean(g * z_hat)) * inverse_std


def key_pass(
    weights: FastWeights, norm: Norm, tokens: Tokens
) -> list[tuple[Float[Array, "b in"], Float[Array, "b out"]]]:
    """Return every map's inputs x [b, in] and rate-weighted output gradients g [b, out].

    Both are for the keys of a mini-batch; the sum of x g over tokens is the gradient of the map.
    """
    inputs = []
    slopes = []
    x = tokens.key
    for depth, (w, b) in enumerate(weights):
        if depth:
            x, slope = jax.vjp(gelu, x)
            slopes.append(slope)
        inputs.append(x)
        x = x @ w + b
    g = output_gradient(x, norm, tokens.value - tokens.key) * tokens.rate[:, None]
    gradients = [g]
    for (w, _), slope in zip(reversed(weights[1:]), reversed(slopes), strict=True):
        gradients.append(slope(gradients[-1] @ w.T)[0])
    return list(zip(inputs, reversed(gradients), strict=True))


def ttt_dual(
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    state: State,
    tokens: Tokens,
    aligned: bool = False,
) -> tuple[Float[Array, "L F"] | None, State]:
    """Compute the same as `scan.ttt_scan`, for fast weights that are a tuple of (W, b)."""

    def mini_batch(state, tokens):
        maps = key_pass(state.weights, norm, tokens)
        update = tuple((x.T @ g, g.sum(0)) for x, g in maps)
        after = advance(state, slot_scale_b, update, tokens.valid.sum(dtype=jnp.int32))
        if tokens.query is None:
            return after, None
        size = len(tokens.key)
        scale_bx1 = slot_scale_b[:size, None]
        causal_bxb = jnp.tri(size, dtype=tokens.query.dtype)
        z = tokens.query
        for depth, ((w, b), (carried_w, carried_b), (x, g)) in enumerate(
            zip(state.weights, state.gradients, maps, strict=True)
        ):
            q = gelu(z) if depth else z
            step = (causal_bxb * (q @ x.T + 1)) @ g
            if not aligned:  # add the gradients accumulated before this call
                step += q @ carried_w + carried_b
            z = q @ w + b - scale_bx1 * step
        return after, tokens.query + layer_norm(z, norm)

    return scan_mini_batches(mini_batch, state, tokens, len(slot_scale_b), aligned)
