"""Training losses of one target, from its score and the scores of its negatives. Lower is better; all in nats."""

import jax
import jax.numpy as jnp


def bce(positive, negatives_K):
    """Binary cross entropy, mean over the positive and its K negatives.

    -log sigmoid(s) is softplus(-s) and -log(1 - sigmoid(s)) is softplus(s), which do not overflow.
    """
    return (jax.nn.softplus(-positive) + jax.nn.softplus(negatives_K).sum(-1)) / (
        1 + negatives_K.shape[-1]
    )


def gbce(positive, negatives_K, num_items: int, t: float):
    """Generalised binary cross entropy (Petrov and Macdonald 2023, arXiv:2308.07192, eq. 10 and 11).

    The positive's probability is raised to beta, which corrects for the sampling of negatives; t=0
    is bce.
    """
    sampling_rate = negatives_K.shape[-1] / (num_items - 1)
    beta = sampling_rate * (t * (1 - 1 / sampling_rate) + 1 / sampling_rate)
    return (beta * jax.nn.softplus(-positive) + jax.nn.softplus(negatives_K).sum(-1)) / (
        1 + negatives_K.shape[-1]
    )


def softmax(logits_V, target, num_items: int):
    """Cross entropy over the catalogue, columns 1 to num_items; those of padding and of what else has a row take no part."""
    column_V = jnp.arange(logits_V.shape[-1])
    logits_V = jnp.where((column_V > 0) & (column_V <= num_items), logits_V, -jnp.inf)
    positive = jnp.take_along_axis(logits_V, target[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits_V, -1) - positive


def sampled_softmax(positive, target, negatives_K, negative_items_K, num_items: int):
    """Cross entropy over the target and K uniform draws that stand for the whole catalogue.

    Each draw counts for (V - 1) / K items (the logQ correction for uniform sampling); draws that
    hit the target are left out (Jean et al. 2015, arXiv:1412.2007).
    """
    correction = jnp.log((num_items - 1) / negatives_K.shape[-1])
    hit = negative_items_K == target[..., None]
    negatives_K = jnp.where(hit, -jnp.inf, negatives_K + correction)
    return jnp.logaddexp(positive, jax.nn.logsumexp(negatives_K, -1)) - positive
