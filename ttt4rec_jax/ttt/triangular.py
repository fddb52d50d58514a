"""The block triangular system that gives all inner gradients of a chunk at once; see chunked.py.

The gradient g_i of key i is taken at z_i, which depends on the g_j of earlier mini-batches, so the
system is solved forward, one mini-batch at a time. The Jacobian of g with respect to z is the
Hessian of the inner loss, which is symmetric, and so is the matrix k_i . k_j + 1. Therefore the
backward pass solves the same system backward.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ttt4rec_jax.ttt.dual import output_gradient
from ttt4rec_jax.ttt.inner import Norm
from ttt4rec_jax.ttt.matmul import mean


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def substitute(
    size: int,
    norm: Norm,
    key_LxF: Float[Array, "L F"],
    base_LxF: Float[Array, "L F"],
    target_LxF: Float[Array, "L F"],
    step_L: Float[Array, " L"],
) -> Float[Array, "L F"]:
    """Return the gradients g [L, F] of the keys' losses, for mini-batches of `size` tokens.

    g_i is taken at z_i = base_i - sum over j in earlier mini-batches of step_j * (k_i . k_j + 1)
    g_j.
    """
    return substitute_fwd(size, norm, key_LxF, base_LxF, target_LxF, step_L)[0]


def rows_of_mini_batches(size: int, x: jax.Array) -> jax.Array:
    """Return [L, ...] as mini-batches [M, size, ...]."""
    return x.reshape(-1, size, *x.shape[1:])


def replace_mini_batch(
    whole: Float[Array, "L F"], block: Float[Array, "b F"], index: Int[Array, ""]
) -> Float[Array, "L F"]:
    """Return `whole` with its mini-batch `index` replaced by `block`."""
    return jax.lax.dynamic_update_slice_in_dim(whole, block, index * len(block), 0)


def substitute_fwd(
    size: int,
    norm: Norm,
    key_LxF: Float[Array, "L F"],
    base_LxF: Float[Array, "L F"],
    target_LxF: Float[Array, "L F"],
    step_L: Float[Array, " L"],
) -> tuple[Float[Array, "L F"], Any]:
    """Solve forward: return (g [L, F], the residuals for `substitute_bwd`)."""
    if len(key_LxF) == size:
        z_LxF = base_LxF
        g_LxF = output_gradient(base_LxF, norm, target_LxF)
        return g_LxF, (norm, key_LxF, z_LxF, g_LxF, target_LxF, step_L)
    gram_LxL = key_LxF @ key_LxF.T + 1

    # rows that are not computed yet are zero, so whole rows of the symmetric matrix can be used
    def mini_batch(stepped_LxF, x):
        index, gram_bxL, base_bxF, target_bxF, step_b = x
        z_bxF = base_bxF - gram_bxL @ stepped_LxF
        g_bxF = output_gradient(z_bxF, norm, target_bxF)
        return replace_mini_batch(stepped_LxF, step_b[:, None] * g_bxF, index), (z_bxF, g_bxF)

    rows = jax.tree.map(
        partial(rows_of_mini_batches, size), (gram_LxL, base_LxF, target_LxF, step_L)
    )
    count = len(key_LxF) // size
    _, (z, g) = jax.lax.scan(mini_batch, jnp.zeros_like(base_LxF), (jnp.arange(count), *rows))
    z_LxF = z.reshape(base_LxF.shape)
    g_LxF = g.reshape(base_LxF.shape)
    return g_LxF, (norm, key_LxF, z_LxF, g_LxF, target_LxF, step_L)


def same_mini_batch(length: int, size: int) -> Bool[np.ndarray, "L L"]:
    """Return which pairs of positions share a mini-batch [L, L], as a constant."""
    index_L = np.arange(length) // size
    return index_L[:, None] == index_L


def hvp(
    scale_F: Float[Array, " F"],
    d_g: Float[Array, "*rows F"],
    z_hat: Float[Array, "*rows F"],
    inverse_std: Float[Array, "*rows 1"],
    slope: Float[Array, "*rows 1"],
    g: Float[Array, "*rows F"],
) -> tuple[Float[Array, "*rows F"], Float[Array, "*rows F"]]:
    """Return (H d_g, J d_g): products with the Hessian and the normalisation's Jacobian at z.

    With z_hat = (z - mean(z)) / std, J = dz_hat/dz and the inner loss 1/2 |e|^2, where
    e = z_hat * scale + bias - target:

        J v = (v - mean(v) - z_hat mean(z_hat v)) / std,        symmetric
        g   = J (scale e)
        H v = J u - (mean(e scale z_hat) J v + mean(z_hat v) g + z_hat mean(g v)) / std
        u   = scale^2 J v

    because the derivative of g has a term from e, de = scale J v, and a term from J itself.
    `slope` is mean(e scale z_hat).
    """
    mean_z_hat_v = mean(z_hat * d_g)
    jacobian_v = inverse_std * (d_g - mean(d_g) - z_hat * mean_z_hat_v)
    u = jnp.square(scale_F) * jacobian_v
    along_z_hat = mean(u * z_hat) + mean(g * d_g)
    hessian_v = inverse_std * (
        u - mean(u) - z_hat * along_z_hat - slope * jacobian_v - mean_z_hat_v * g
    )
    return hessian_v, jacobian_v


def substitute_bwd(size: int, saved: Any, d_g_LxF: Float[Array, "L F"]) -> tuple[Any, ...]:
    """Solve backward: return the cotangents of (norm, key, base, target, step)."""
    norm, key_LxF, z_LxF, g_LxF, target_LxF, step_L = saved
    centred = z_LxF - mean(z_LxF)
    inverse_std = jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-6)
    z_hat = centred * inverse_std
    error = z_hat * norm.scale + norm.bias - target_LxF
    slope = mean(error * norm.scale * z_hat)
    linear = (z_hat, inverse_std, slope, g_LxF)

    if len(key_LxF) == size:
        d_z_LxF, jacobian_v = hvp(norm.scale, d_g_LxF, *linear)
        d_step_L = jnp.zeros_like(step_L)
        d_key_LxF = jnp.zeros_like(key_LxF)
    else:
        gram_LxL = key_LxF @ key_LxF.T + 1

        def mini_batch(d_z_LxF, x):
            index, gram_bxL, d_g_bxF, step_b, linear = x
            d_stepped_bxF = -(gram_bxL @ d_z_LxF)
            d_z_bxF, jacobian_v = hvp(
                norm.scale, d_g_bxF + step_b[:, None] * d_stepped_bxF, *linear
            )
            return replace_mini_batch(d_z_LxF, d_z_bxF, index), (d_stepped_bxF, jacobian_v)

        rows = jax.tree.map(
            partial(rows_of_mini_batches, size), (gram_LxL, d_g_LxF, step_L, linear)
        )
        count = len(key_LxF) // size
        d_z_LxF, (d_stepped, jacobian_v) = jax.lax.scan(
            mini_batch, jnp.zeros_like(z_LxF), (jnp.arange(count), *rows), reverse=True
        )
        jacobian_v = jacobian_v.reshape(z_LxF.shape)
        d_step_L = (d_stepped.reshape(z_LxF.shape) * g_LxF).sum(-1)
        earlier_LxL = np.tri(len(key_LxF), dtype=bool) & ~same_mini_batch(len(key_LxF), size)
        d_gram_LxL = jnp.where(earlier_LxL, -(d_z_LxF @ (step_L[:, None] * g_LxF).T), 0)
        d_key_LxF = (d_gram_LxL + d_gram_LxL.T) @ key_LxF

    d_norm = Norm(
        ((error + z_hat * norm.scale) * jacobian_v).sum(0), (jacobian_v * norm.scale).sum(0)
    )
    return d_norm, d_key_LxF, d_z_LxF, -jacobian_v * norm.scale, d_step_L


substitute.defvjp(substitute_fwd, substitute_bwd)
