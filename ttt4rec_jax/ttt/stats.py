"""Statistics of the inner learners of a TTT layer on given sequences.

Inner losses, weight change and inner learning rates are computed by the definition in scan.py for
any inner learner, whichever implementation the layer uses.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ttt4rec_jax.ttt import forward
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, FastWeights, InnerLearner, Norm, inner_loss
from ttt4rec_jax.ttt.layer import TttLayer, core_params
from ttt4rec_jax.ttt.scan import State, Tokens, advance, scan_mini_batches, weights_at_slot

SEQUENCES_AT_ONCE = 64  # memory holds separate fast weights for each of their tokens


def inner_losses(
    learner: InnerLearner,
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    state: State,
    tokens: Tokens,
) -> tuple[Float[Array, "L 2"], FastWeights]:
    """Return each token's inner loss before and after its update, and the weights at the end.

    For one sequence and one head. The loss before is at the weights at the start of the token's
    mini-batch, where its gradient is taken; the loss after is at the weights that its read-out
    uses. The arguments are those of `ttt_scan`, with the state at the start of a mini-batch;
    tokens.query is not used. Returns (losses [L, 2], arbitrary at padding; the weights that the
    last valid token reads).
    """

    def loss(weights, key_F, value_F):
        return inner_loss(learner, weights, norm, key_F, value_F)

    def mini_batch(state, tokens):
        grad = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))
        before_b, gradients = grad(state.weights, tokens.key, tokens.value)
        gradients = jax.tree.map(lambda g: jnp.einsum("b,b...->b...", tokens.rate, g), gradients)
        at_slot = jax.vmap(lambda g, scale: weights_at_slot(state._replace(gradients=g), scale))
        so_far = jax.tree.map(lambda g: jnp.cumsum(g, 0), gradients)
        weights = at_slot(so_far, slot_scale_b[: len(tokens.key)])
        after_b = jax.vmap(loss)(weights, tokens.key, tokens.value)
        total = jax.tree.map(lambda g: g.sum(0), gradients)
        count = tokens.valid.sum(dtype=jnp.int32)
        return advance(state, slot_scale_b, total, count), jnp.stack([before_b, after_b], 1)

    losses_Lx2, end = scan_mini_batches(
        mini_batch, state, tokens._replace(query=None), len(slot_scale_b), aligned=True
    )
    # a full mini-batch has already been applied to the weights and left no gradients, so that
    # nothing is subtracted twice
    return losses_Lx2, weights_at_slot(end, slot_scale_b[jnp.maximum(end.filled - 1, 0)])


def frobenius(weights: FastWeights) -> Float[Array, ""]:
    """Return the norm of all matrices of the inner learner, without biases, which start at 0."""
    matrices = [w for w in jax.tree.leaves(weights) if w.ndim > 1]
    return jnp.sqrt(sum((jnp.square(w).sum() for w in matrices), jnp.zeros(())))


def layer_stats(
    layer: TttLayer, x_BxLxD: Float[Array, "B L D"], length_B: Int[Array, " B"]
) -> dict[str, jax.Array]:
    """Return statistics of each head [H] over the valid tokens of sequences from the initial state.

    x is the layer's input. The statistics are:

    loss_before, loss_after: mean inner loss, see `inner_losses`.
    weight_change: |W_t - W_0| / |W_0| at the last valid token t, mean over sequences; see
    `frobenius`.
    rate, rate_min, rate_max: mean, minimum and maximum of the learned rate
    eta(x) = inner_learning_rate / F * sigmoid(gate).
    slot_scale: mean scale max(1/i + offset_i, 0) of the tokens' slots.
    step: mean of slot scale times eta, the step size of a token's own gradient in the weights that
    the token reads.
    """
    config = layer.config
    p = core_params(layer)
    start = forward.first_state(p, config)
    learner = INNER_LEARNERS[config.inner]
    scale_L = p.slot_scale_b[np.arange(x_BxLxD.shape[1]) % len(p.slot_scale_b)]

    def of_head(norm, state, tokens):
        tokens = forward.rotate_tokens(tokens, 0, None, config)
        losses_Lx2, last = inner_losses(learner, norm, p.slot_scale_b, state, tokens)
        moved = jax.tree.map(jnp.subtract, last, state.weights)
        change = frobenius(moved) / frobenius(state.weights)

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
        most = tokens.rate.max()  # the rate of padding is 0
        return sums, jnp.where(tokens.valid[0], change, 0), least, most

    def of_sequence(sequence):
        x_LxD, length = sequence
        x_LxD, read_x = forward.only_valid(x_LxD, length, last_only=False)
        projected = forward.project(p, x_LxD, read_x)
        tokens, _ = forward.tokens_of_heads(
            p, projected, length, start.recent, config, last_only=False
        )
        return jax.vmap(of_head)(p.inner_norm, start.heads, tokens)

    sums, change, least, most = jax.lax.map(
        of_sequence, (x_BxLxD, length_B), batch_size=SEQUENCES_AT_ONCE
    )
    means = jax.tree.map(lambda x_BxH: x_BxH.sum(0) / length_B.sum(), sums)
    return means | {
        "weight_change": change.sum(0) / (length_B > 0).sum(),
        "rate_min": least.min(0),
        "rate_max": most.max(0),
    }
