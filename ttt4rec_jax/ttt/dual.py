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

from ttt4rec_jax.ttt.inner import FastWeights, Norm, apply_affine_stack, gelu, layer_norm
from ttt4rec_jax.ttt.matmul import mean
from ttt4rec_jax.ttt.scan import State, Tokens, advance, scan_aligned, scan_mini_batches

# of a map: the inputs x of some tokens, and the rate-weighted gradients g at its outputs for them
Rows = tuple[Float[Array, "b _"], Float[Array, "b _"]]


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
    weights: FastWeights,
    norm: Norm,
    key: Float[Array, "b F"],
    target: Float[Array, "b F"],
    rate: Float[Array, " b"],
    beside: Float[Array, "n F"] | None = None,
) -> tuple[list[Rows], Float[Array, "n F"]]:
    """Return every map's rows for keys, and the outputs z [n, F] for the rows `beside` them.

    The gradients are weighted by the rates; the sum of x g over tokens is the gradient of the map.
    """
    b = len(key)
    inputs = []
    slopes = []
    x = key if beside is None else jnp.concatenate([key, beside])
    for depth, (w, bias) in enumerate(weights):
        if depth:
            slopes.append(jax.vjp(gelu, x[:b])[1])
            x = gelu(x)
        inputs.append(x[:b])
        x = x @ w + bias
    gradients = [output_gradient(x[:b], norm, target) * rate[:, None]]
    for (w, _), slope in zip(reversed(weights[1:]), reversed(slopes), strict=True):
        gradients.append(slope(gradients[-1] @ w.T)[0])
    return list(zip(inputs, reversed(gradients), strict=True)), x[b:]


def products(maps: list[Rows]) -> FastWeights:
    """Return the gradients of maps, summed over tokens."""
    return tuple((x.T @ g, g.sum(0)) for x, g in maps)


def ttt_dual(
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    state: State,
    tokens: Tokens,
    aligned: bool = False,
) -> tuple[Float[Array, "L F"] | None, State]:
    """Compute the same as `scan.ttt_scan`, for fast weights that are a tuple of (W, b)."""
    if len(slot_scale_b) == 1:
        return ttt_online(norm, slot_scale_b[0], state, tokens)

    def gradient_rows(weights, tokens):
        return key_pass(weights, norm, tokens.key, tokens.value - tokens.key, tokens.rate)[0]

    def outputs_of(weights, maps, tokens, carried):
        """Return the outputs of a mini-batch.

        carried: the gradients of its earlier tokens; None for each map if there are none.
        """
        if tokens.query is None:
            return None
        size = len(tokens.key)
        scale_bx1 = slot_scale_b[:size, None]
        causal_bxb = jnp.tri(size, dtype=tokens.query.dtype)
        z = tokens.query
        for depth, ((w, b), earlier, (x, g)) in enumerate(zip(weights, carried, maps, strict=True)):
            q = gelu(z) if depth else z
            step = (causal_bxb * (q @ x.T + 1)) @ g
            if earlier is not None:
                step += q @ earlier[0] + earlier[1]
            z = q @ w + b - scale_bx1 * step
        return tokens.query + layer_norm(z, norm)

    def from_state(state, tokens):
        maps = gradient_rows(state.weights, tokens)
        outputs = outputs_of(state.weights, maps, tokens, state.gradients)
        count = tokens.valid.sum(dtype=jnp.int32)
        return advance(state, slot_scale_b, products(maps), count), outputs

    def from_start(weights, tokens, scale):
        maps = gradient_rows(weights, tokens)
        outputs = outputs_of(weights, maps, tokens, (None,) * len(maps))
        return stepped(weights, maps, scale), outputs

    if not aligned:
        return scan_mini_batches(from_state, state, tokens, len(slot_scale_b), aligned)
    return scan_aligned(
        from_start, lambda w, t: products(gradient_rows(w, t)), slot_scale_b, state, tokens
    )


def stepped(weights: FastWeights, maps: list[Rows], scale: Float[Array, ""]) -> FastWeights:
    """Return weights after a step against the gradients of maps."""
    # the scale is applied to rows, which saves passes over arrays of the size of the weights
    return jax.tree.map(jnp.add, weights, products([(x, -scale * g) for x, g in maps]))


def ttt_online(
    norm: Norm, scale: Float[Array, ""], state: State, tokens: Tokens
) -> tuple[Float[Array, "L F"] | None, State]:
    """Compute the same for mini_batch_size 1, whose states have no gradients of earlier tokens.

    The weights after token t are those that its query reads, and those at which the gradient of
    token t + 1 is taken. So query t and key t + 1 are rows of the same products.
    """
    query = tokens.query
    earlier = None
    if query is not None:  # the query beside each key; the last query follows alone
        earlier = jnp.concatenate([jnp.zeros_like(query[:1]), query[:-1]])[:, None]

    def token(weights, xs):
        earlier, key, value, rate = xs
        maps, z = key_pass(weights, norm, key[None], (value - key)[None], rate[None], earlier)
        output = None if earlier is None else earlier[0] + layer_norm(z[0], norm)
        return stepped(weights, maps, scale), output

    # what a token computes is computed again in the gradient, since to keep it means to write and
    # read several arrays of the size of the weights
    again = jax.checkpoint(token, prevent_cse=False)
    weights, outputs = jax.lax.scan(
        again, state.weights, (earlier, tokens.key, tokens.value, tokens.rate)
    )
    after = state._replace(weights=weights)
    if query is None:
        return None, after
    last = query[-1:] + layer_norm(apply_affine_stack(weights, query[-1:]), norm)
    return jnp.concatenate([outputs[1:], last]), after
