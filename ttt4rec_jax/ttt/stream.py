"""The TTT layer's core one token at a time: the same outputs as scan.py at a cost that does not depend on the past."""

import jax
import jax.numpy as jnp

from ttt4rec_jax.ttt.inner import InnerLearner, Norm, inner_loss, read_out
from ttt4rec_jax.ttt.scan import State, advance, seen_weights


def ttt_step(
    learner: InnerLearner, norm: Norm, slot_scale_b, state: State, query_F, key_F, value_F, rate
):
    """One valid token: (state, token) -> (state, output [F])."""

    def loss(weights):
        return inner_loss(learner, weights, norm, key_F, value_F)

    gradient = jax.tree.map(lambda g: rate * g, jax.grad(loss)(state.weights))
    so_far = state._replace(gradients=jax.tree.map(jnp.add, state.gradients, gradient))
    output = read_out(learner, seen_weights(so_far, slot_scale_b[state.filled]), norm, query_F)
    return advance(state, slot_scale_b, gradient, 1), output
