"""Training losses of a target from its score and its negatives' scores, in nats."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def bce(
    positive: Float[Array, "*rows"], negatives_K: Float[Array, "*rows K"]
) -> Float[Array, "*rows"]:
    """Return the binary cross entropy, mean over the positive and its K negatives.

    -log sigmoid(s) is softplus(-s) and -log(1 - sigmoid(s)) is softplus(s), which do not overflow.
    """
    return (jax.nn.softplus(-positive) + jax.nn.softplus(negatives_K).sum(-1)) / (
        1 + negatives_K.shape[-1]
    )


def gbce(
    positive: Float[Array, "*rows"], negatives_K: Float[Array, "*rows K"], num_items: int, t: float
) -> Float[Array, "*rows"]:
    """Return the generalised binary cross entropy.

    Petrov and Macdonald 2023, arXiv:2308.07192, eq. 10 and 11: the positive's probability is raised
    to beta, which corrects for the sampling of negatives. With t = 0 it is bce.
    """
    sampling_rate = negatives_K.shape[-1] / (num_items - 1)
    beta = sampling_rate * (t * (1 - 1 / sampling_rate) + 1 / sampling_rate)
    return (beta * jax.nn.softplus(-positive) + jax.nn.softplus(negatives_K).sum(-1)) / (
        1 + negatives_K.shape[-1]
    )


def softmax(
    logits_V: Float[Array, "*rows V"], target: Int[Array, "*rows"], num_items: int
) -> Float[Array, "*rows"]:
    """Return the cross entropy over the catalogue, the columns 1 to num_items.

    The columns of padding and of other ids beyond the items (a mask) take no part.
    """
    column_V = jnp.arange(logits_V.shape[-1])
    logits_V = jnp.where((column_V > 0) & (column_V <= num_items), logits_V, -jnp.inf)
    positive = jnp.take_along_axis(logits_V, target[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits_V, -1) - positive


def sampled_softmax(
    positive: Float[Array, "*rows"],
    target: Int[Array, "*rows"],
    negatives_K: Float[Array, "*rows K"],
    negative_items_K: Int[Array, "*negative_rows K"],
    num_items: int,
    log_expected_K: Float[Array, " K"] | tuple[()] = (),
) -> Float[Array, "*rows"]:
    """Return the cross entropy over the target and K items sampled from the catalogue.

    Each sampled item counts for the inverse of its expected number among the K (the logQ
    correction): log_expected_K, or K / (V - 1), for uniform sampling, without it. Samples that are
    the target are left out (Jean et al. 2015, arXiv:1412.2007). The rows may share their negative
    items [K].
    """
    if isinstance(log_expected_K, tuple):
        correction = jnp.log((num_items - 1) / negatives_K.shape[-1])
    else:
        correction = -log_expected_K
    hit = negative_items_K == target[..., None]
    negatives_K = jnp.where(hit, -jnp.inf, negatives_K + correction)
    return jnp.logaddexp(positive, jax.nn.logsumexp(negatives_K, -1)) - positive
