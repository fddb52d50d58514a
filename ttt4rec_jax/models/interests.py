"""How the interests of a user, one vector or several, score an item.

The rule belongs to the model (its attribute interest_rule), and training, evaluation, serving and
exports all score by `over_interests`:
    own     max_k u_k . v, the best interest of each item, positive or negative
    nearest as own; but in training, the interest nearest the target scores the negatives, too (Cen
            et al. 2020, arXiv:2005.09347, eq. 8)
    soft    sum_k softmax_k(u_k . v) u_k . v
With one interest they are the same, and so is the compiled program.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rule_of(model: Any, otherwise: str = "own") -> str:
    """Return a model's rule, or `otherwise` if it names none."""
    return getattr(model, "interest_rule", otherwise)


def over_interests(
    interests: Float[Array, "*rows K D"],
    score: Callable[[Float[Array, "*rows D"]], jax.Array],
    rule: str,
) -> jax.Array:
    """Return the scores of K interests by a rule. score: one user vector a row -> products [...].

    One interest's products are made at a time, so that no array has an axis of interests.
    """
    products = [score(interests[..., k, :]) for k in range(interests.shape[-2])]
    best = functools.reduce(jnp.maximum, products)
    if rule != "soft" or len(products) == 1:
        return best
    weights = [jnp.exp(product - best) for product in products]
    weighted = [weight * product for weight, product in zip(weights, products, strict=True)]
    # rounded before they are added: which product a compiler fuses with the addition depends on the
    # program around it, and equal items' scores would not be ties
    weighted = jax.lax.optimization_barrier(weighted)
    return functools.reduce(jnp.add, weighted) / functools.reduce(jnp.add, weights)


def nearest_interest(
    interests: Float[Array, "*rows K D"], target: Float[Array, "*rows D"]
) -> Float[Array, "*rows D"]:
    """Return each row's interest, of K, whose product with the target's vector is greatest."""
    if interests.shape[-2] == 1:
        return interests[..., 0, :]
    best = jnp.einsum("...KD,...D->...K", interests, target).argmax(-1)
    return jnp.take_along_axis(interests, best[..., None, None], -2)[..., 0, :]
