"""What the inner learners of a TTT layer do on given sequences: inner losses, weight change, inner learning rates.

Computed from scan.py's pieces, for any inner learner and however the layer itself is evaluated.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ttt4rec_jax.ttt.inner import INNER_LEARNERS, FastWeights, InnerLearner, Norm, inner_loss
from ttt4rec_jax.ttt.layer import TttLayer
from ttt4rec_jax.ttt.scan import State, Tokens, advance, over_mini_batches, seen_weights

SEQUENCES_AT_ONCE = 64  # each token of them has fast weights of its own


def inner_losses(learner: InnerLearner, norm: Norm, slot_scale_b, state: State, tokens: Tokens):
    """Each token's inner loss before and after the update with it, and where the weights end. One sequence, one head.

    Before: at the weights that its mini-batch began with, where its gradient is taken. After: at
    the weights that its read-out sees. Args: as `ttt_scan`'s, the state at the start of a
    mini-batch; tokens.query is not used.
    Returns: (losses [L, 2], arbitrary at padding; the weights that the last valid token sees).
    """

    def loss(weights, key_F, value_F):
        return inner_loss(learner, weights, norm, key_F, value_F)

    def mini_batch(state: State, tokens: Tokens):
        grad = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))
        before_b, gradients = grad(state.weights, tokens.key, tokens.value)
        gradients = jax.tree.map(lambda g: jnp.einsum("b,b...->b...", tokens.rate, g), gradients)
        seen = jax.vmap(lambda so_far, scale: seen_weights(state._replace(gradients=so_far), scale))
        weights = seen(
            jax.tree.map(lambda g: jnp.cumsum(g, 0), gradients), slot_scale_b[: len(tokens.key)]
        )
        after_b = jax.vmap(loss)(weights, tokens.key, tokens.value)
        total = jax.tree.map(lambda g: g.sum(0), gradients)
        return advance(state, slot_scale_b, total, tokens.valid.sum(dtype=jnp.int32)), jnp.stack(
            [before_b, after_b], 1
        )

    losses_Lx2, end = over_mini_batches(
        mini_batch, state, tokens._replace(query=None), len(slot_scale_b), aligned=True
    )
    # a mini-batch that is full has been carried into the weights and left no gradients: nothing is
    # subtracted twice
    return losses_Lx2, seen_weights(end, slot_scale_b[jnp.maximum(end.filled - 1, 0)])


def frobenius(weights: FastWeights):
    """The norm of the inner learner's matrices, taken together; biases, which begin at 0, are left out."""
    return jnp.sqrt(sum(jnp.square(w).sum() for w in jax.tree.leaves(weights) if w.ndim > 1))


def layer_stats(layer: TttLayer, x_BxLxD, length_B) -> dict[str, jax.Array]:
    """Of each head [H], over the valid tokens of sequences from the initial state. x: the layer's inputs.

    loss_before, loss_after: mean inner loss, see `inner_losses`.
    weight_change: |W_t - W_0| / |W_0| at the last valid token t, mean over sequences; see
    `frobenius`.
    rate, rate_min, rate_max: the learned rate eta(x) = inner_learning_rate / F * sigmoid(gate),
    mean, least and greatest.
    slot_scale: mean scale max(1/i + offset_i, 0) of the tokens' slots.
    step: mean of slot scale times eta, by which a token's own gradient moves the weights that it
    sees.
    """
    learner = INNER_LEARNERS[layer.config.inner]
    start = layer.initial_state()
    scale_b = layer._slot_scale()
    scale_L = scale_b[np.arange(x_BxLxD.shape[1]) % len(scale_b)]

    def of_head(norm: Norm, state: State, tokens: Tokens):
        losses_Lx2, last = inner_losses(learner, norm, scale_b, state, tokens)
        change = frobenius(jax.tree.map(jnp.subtract, last, state.weights)) / frobenius(
            state.weights
        )

        def total(x_L):
            return jnp.where(tokens.valid, x_L, 0).sum()

        sums = {
            "loss_before": total(losses_Lx2[:, 0]),
            "loss_after": total(losses_Lx2[:, 1]),
            "rate": total(tokens.rate),
            "slot_scale": total(scale_L),
            "step": total(scale_L * tokens.rate),
        }
        least = jnp.where(tokens.valid, tokens.rate, jnp.inf).min()
        return (
            sums,
            jnp.where(tokens.valid[0], change, 0),
            least,
            tokens.rate.max(),
        )  # the rate of padding is 0

    def of_sequence(sequence):
        return jax.vmap(of_head)(layer._norm(), start.heads, layer.tokens(*sequence))

    sums, change, least, most = jax.lax.map(
        of_sequence, (x_BxLxD, length_B), batch_size=SEQUENCES_AT_ONCE
    )
    means = jax.tree.map(lambda x_BxH: x_BxH.sum(0) / length_B.sum(), sums)
    return means | {
        "weight_change": change.sum(0) / (length_B > 0).sum(),
        "rate_min": least.min(0),
        "rate_max": most.max(0),
    }
