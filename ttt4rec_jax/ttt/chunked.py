"""TTT-Linear without its fast weights: equal to scan.py in values and gradients, in a fraction of its time and memory.

The gradient of token j's loss in the weights is the outer product of [k_j, 1] and g_j, the gradient
at z_j = k_j W + b. So within a chunk of mini-batches W need not be formed: what the keys of a
mini-batch read is

    z_i = k_i W + b - sum over j in the chunk's earlier mini-batches of last * rate_j * (k_i . k_j +
    1) g_j

with W, b of the chunk's start and `last` the slot scale of a full mini-batch. Each g follows from
its z: a block triangular system, solved forwards (`substitute`). Read-outs then are one masked
product, as in the dual form. W is formed between chunks only. The Jacobian of g in z is the Hessian
of the inner loss, symmetric, and so is the matrix k_i . k_j + 1: the backward pass is the same
system solved backwards.

Dual form: Sun et al. 2024, arXiv:2407.04620, section 2.5 and appendix A, for one mini-batch.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.ttt.dual import output_gradient
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, Norm, layer_norm
from ttt4rec_jax.ttt.matmul import gram, mean, mix
from ttt4rec_jax.ttt.scan import State, Tokens

CHUNK = 50  # the products grow with it, the number of W's to form and to keep falls: flat from 25 to 50 at F = 32


def pick(length: int, mini_batch_size: int, inner: str) -> tuple[str, int]:
    """The fastest implementation and its chunk, as measured by experiments/benchmarks/layer.py: (impl, chunk)."""
    if inner == "linear":
        return "chunked", max(
            mini_batch_size, -(-length // max(1, -(-length // CHUNK)))
        )  # chunks of one size, none nearly empty
    learner = INNER_LEARNERS.get(inner)
    return ("dual" if learner is not None and learner.is_affine_stack else "scan"), 0


# --- the triangular system


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def substitute(size: int, norm: Norm, key_LxF, base_LxF, target_LxF, step_L):
    """Gradients g of the keys' losses [L, F] over mini-batches of `size`.

    g_i is taken at z_i = base_i - sum over j in earlier mini-batches of step_j * (k_i . k_j + 1)
    g_j.
    """
    return forwards(size, norm, key_LxF, base_LxF, target_LxF, step_L)[0]


def blocks(size: int, x):
    """[L, ...] as mini-batches [M, size, ...]."""
    return x.reshape(-1, size, *x.shape[1:])


def put(whole, block, index, size: int):
    """`whole` with its mini-batch `index` replaced."""
    return jax.lax.dynamic_update_slice_in_dim(whole, block, index * size, 0)


def forwards(size, norm, key_LxF, base_LxF, target_LxF, step_L):
    """(g [L, F], what `backwards` needs)."""
    if len(key_LxF) == size:
        z_LxF = base_LxF
        g_LxF = output_gradient(base_LxF, norm, target_LxF)
        return g_LxF, (norm, key_LxF, z_LxF, g_LxF, target_LxF, step_L)
    gram_LxL = key_LxF @ key_LxF.T + 1

    # not yet reached means zero, so that rows of the whole symmetric matrix will do
    def mini_batch(stepped_LxF, x):
        index, gram_bxL, base_bxF, target_bxF, step_b = x
        z_bxF = base_bxF - gram_bxL @ stepped_LxF
        g_bxF = output_gradient(z_bxF, norm, target_bxF)
        return put(stepped_LxF, step_b[:, None] * g_bxF, index, size), (z_bxF, g_bxF)

    rows = jax.tree.map(partial(blocks, size), (gram_LxL, base_LxF, target_LxF, step_L))
    count = len(key_LxF) // size
    _, (z, g) = jax.lax.scan(mini_batch, jnp.zeros_like(base_LxF), (jnp.arange(count), *rows))
    z_LxF = z.reshape(base_LxF.shape)
    g_LxF = g.reshape(base_LxF.shape)
    return g_LxF, (norm, key_LxF, z_LxF, g_LxF, target_LxF, step_L)


def same_block(length: int, size: int):
    """Which pairs of positions are in one mini-batch [L, L], as a constant."""
    block_L = np.arange(length) // size
    return block_L[:, None] == block_L


def backwards(size, saved, d_g_LxF):
    norm, key_LxF, z_LxF, g_LxF, target_LxF, step_L = saved
    centred = z_LxF - mean(z_LxF)
    inverse_std = jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-6)
    z_hat = centred * inverse_std
    error = z_hat * norm.scale + norm.bias - target_LxF
    slope = mean(error * norm.scale * z_hat)
    linear = (z_hat, inverse_std, slope, g_LxF)

    def hessian_product(d_g, z_hat, inverse_std, slope, g):
        """The derivative of g at z, applied to d_g, and d_g through the layer norm's own Jacobian."""
        along = mean(z_hat * d_g)
        through = inverse_std * (d_g - mean(d_g) - z_hat * along)
        u = jnp.square(norm.scale) * through
        bent = mean(u * z_hat) + mean(g * d_g)
        return inverse_std * (u - mean(u) - z_hat * bent - slope * through - along * g), through

    if len(key_LxF) == size:
        d_z_LxF, through = hessian_product(d_g_LxF, *linear)
        d_step_L = jnp.zeros_like(step_L)
        d_key_LxF = jnp.zeros_like(key_LxF)
    else:
        gram_LxL = key_LxF @ key_LxF.T + 1

        def mini_batch(d_z_LxF, x):
            index, gram_bxL, d_g_bxF, step_b, linear = x
            d_stepped_bxF = -(gram_bxL @ d_z_LxF)
            d_z_bxF, through = hessian_product(d_g_bxF + step_b[:, None] * d_stepped_bxF, *linear)
            return put(d_z_LxF, d_z_bxF, index, size), (d_stepped_bxF, through)

        rows = jax.tree.map(partial(blocks, size), (gram_LxL, d_g_LxF, step_L, linear))
        count = len(key_LxF) // size
        d_z_LxF, (d_stepped, through) = jax.lax.scan(
            mini_batch, jnp.zeros_like(z_LxF), (jnp.arange(count), *rows), reverse=True
        )
        through = through.reshape(z_LxF.shape)
        d_step_L = (d_stepped.reshape(z_LxF.shape) * g_LxF).sum(-1)
        earlier_LxL = np.tri(len(key_LxF), dtype=bool) & ~same_block(len(key_LxF), size)
        d_gram_LxL = jnp.where(earlier_LxL, -(d_z_LxF @ (step_L[:, None] * g_LxF).T), 0)
        d_key_LxF = (d_gram_LxL + d_gram_LxL.T) @ key_LxF

    d_norm = Norm(((error + z_hat * norm.scale) * through).sum(0), (through * norm.scale).sum(0))
    return d_norm, d_key_LxF, d_z_LxF, -through * norm.scale, d_step_L


substitute.defvjp(forwards, backwards)


# --- the layer's core


def ttt_chunked(
    norm: Norm,
    slot_scale_b,
    state: State,
    tokens: Tokens,
    aligned: bool = False,
    chunk: int = CHUNK,
    last=None,
):
    """As `scan.ttt_scan`, for fast weights ((W, b),).

    Args: chunk, how many tokens between two formations of W, rounded up to whole mini-batches.
    last, if given, is the
        position of the only query, the last valid token: no other read-out is computed then.
    Returns: as `scan.ttt_scan`; what is read out at padded positions is arbitrary.
    """
    length = len(tokens.key)
    b = max(1, min(len(slot_scale_b), length)) if aligned else len(slot_scale_b)
    room = length if aligned else length + b - 1
    chunk = -(-min(max(chunk, b), room) // b) * b
    count = -(-room // chunk)
    slot_L = jnp.arange(count * chunk)
    first = jnp.zeros((), jnp.int32) if aligned else state.filled

    def place(x):
        """[L, ...] moved right, behind the slots already spent."""
        if aligned:
            return jnp.pad(x, [(0, count * chunk - length)] + [(0, 0)] * (x.ndim - 1))
        return jax.lax.dynamic_update_slice_in_dim(
            jnp.zeros((count * chunk, *x.shape[1:]), x.dtype), x, first, 0
        )

    query, key, value, rate = jax.tree.map(
        place, tokens._replace(query=None if last is not None else tokens.query)
    )[:4]
    (weights,) = state.weights
    (carried,) = state.gradients
    last_scale = slot_scale_b[-1]
    # `carried` counts as taken in for good, and is given back to the one mini-batch that has not
    # been through it
    start = weights if aligned else jax.tree.map(lambda w, g: w - last_scale * g, weights, carried)

    def give_back(z, x, scale_L):
        return (
            z
            if aligned
            else z.at[:b].add((last_scale - scale_L[:b, None]) * affine(carried, x[:b]))
        )

    offset = None if aligned else give_back(jnp.zeros_like(key), key, jnp.zeros(b, key.dtype))

    def solve(weights, xs):
        key, target, rate, offset = xs
        base = affine(weights, key) if aligned else affine(weights, key) + offset
        g = rate[:, None] * substitute(b, norm, key, base, target, last_scale * rate)
        return jax.tree.map(lambda w, g: w - last_scale * g, weights, gradient(key, g)), (
            weights,
            g,
        )

    def in_chunks(x):
        return x.reshape(count, chunk, *x.shape[1:])

    xs = jax.tree.map(in_chunks, (key, value - key, rate, offset))
    if count == 1:
        _, (starts, g) = solve(start, jax.tree.map(lambda x: x[0], xs))
        starts = jax.tree.map(lambda w: w[None], starts)
    else:
        _, (starts, g) = jax.lax.scan(solve, start, xs)
    g = g.reshape(key.shape)

    total = first + tokens.valid.sum(dtype=jnp.int32)
    done = (
        total // len(slot_scale_b) * len(slot_scale_b)
    )  # slots before this one are in full mini-batches
    after = end_state(state, start, last_scale, aligned, done, total, key, g, slot_L)
    if tokens.query is None:
        return None, after

    if last is not None:
        slot = first + last
        scale = slot_scale_b[slot % len(slot_scale_b)]
        coefficient = jnp.where(slot_L // b < slot // b, last_scale, scale)[None]
        q = tokens.query
        z = affine(start, q) - (coefficient * (q @ key.T + 1)) @ g
        if not aligned:
            z += jnp.where(slot < b, last_scale - scale, 0) * affine(carried, q)
        return q + layer_norm(z, norm), after

    scale_c = jnp.tile(slot_scale_b[:b], chunk // b)[:, None]
    causal_cxc = np.tri(chunk, dtype=bool)
    own_cxc = same_block(chunk, b)

    def read(weights, query, key, g):
        gram_cxc = gram(query, key) + 1
        if b in (1, chunk):  # one factor for all that a token sees
            return affine(weights, query) - scale_c * mix(jnp.where(causal_cxc, gram_cxc, 0), g)
        earlier = mix(jnp.where(causal_cxc & ~own_cxc, gram_cxc, 0), g)
        return (
            affine(weights, query)
            - last_scale * earlier
            - scale_c * mix(jnp.where(causal_cxc & own_cxc, gram_cxc, 0), g)
        )

    z = jax.vmap(read)(starts, *map(in_chunks, (query, key, g))).reshape(key.shape)
    outputs = query + layer_norm(give_back(z, query, slot_scale_b), norm)
    return jax.lax.dynamic_slice_in_dim(outputs, first, length), after


def affine(weights, x):
    """x W + b."""
    w, b = weights
    return x @ w + b


def gradient(key, g):
    """The gradient in (W, b) of keys whose outputs' gradients are g."""
    return key.T @ g, g.sum(0)


def end_state(state, start, last_scale, aligned, done, total, key, g, slot_L):
    """The state after `total` slots, the first `done` of them in full mini-batches."""
    full = gradient(key, jnp.where(slot_L[:, None] < done, g, 0))
    partial_ = gradient(key, jnp.where(slot_L[:, None] < done, 0, g))
    weights = jax.tree.map(lambda w, g: w - last_scale * g, start, full)
    if not aligned:
        untouched = done == 0
        weights = jax.tree.map(
            lambda w, old: jnp.where(untouched, old, w), weights, state.weights[0]
        )
        partial_ = jax.tree.map(
            lambda g, carried: g + jnp.where(untouched, carried, 0), partial_, state.gradients[0]
        )
    return State((weights,), (partial_,), (total - done).astype(state.filled.dtype))
