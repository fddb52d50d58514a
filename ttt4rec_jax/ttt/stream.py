"""The TTT layer's core one token at a time, at a cost that does not depend on earlier tokens.

The outputs are those of scan.py.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ttt4rec_jax.ttt.inner import InnerLearner, Norm, inner_loss, read_out
from ttt4rec_jax.ttt.scan import State, advance, weights_at_slot


def ttt_step(
    learner: InnerLearner,
    norm: Norm,
    slot_scale_b: Float[Array, " b"],
    state: State,
    query_F: Float[Array, " F"],
    key_F: Float[Array, " F"],
    value_F: Float[Array, " F"],
    rate: Float[Array, ""],
) -> tuple[State, Float[Array, " F"]]:
    """Process one valid token, and return (the next state, the token's output [F])."""

    def loss(weights):
        return inner_loss(learner, weights, norm, key_F, value_F)

    gradient = jax.tree.map(lambda g: rate * g, jax.grad(loss)(state.weights))
    so_far = state._replace(gradients=jax.tree.map(jnp.add, state.gradients, gradient))
    weights = weights_at_slot(so_far, slot_scale_b[state.filled])
    output = read_out(learner, weights, norm, query_F)
    return advance(state, slot_scale_b, gradient, 1), output
