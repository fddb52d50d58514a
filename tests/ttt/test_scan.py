"""The core's definition equals hand-written gradient descent, and its fast twins equal it."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt4rec_jax.ttt.dual import ttt_dual
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, InnerLearner, Norm, inner_loss, read_out
from ttt4rec_jax.ttt.scan import Tokens, initial_state, ttt_scan
from ttt4rec_jax.ttt.stream import ttt_step

F = 4


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def problem(length, mini_batch_size, inner="linear", valid=None, seed=0):
    """Return (learner, norm, slot_scale_b, W_0, tokens) of random numbers.

    The first `valid` tokens are valid.
    """
    valid = length if valid is None else valid
    keys = iter(jax.random.split(jax.random.key(seed), 16))

    def draw(*shape):
        return jax.random.normal(next(keys), shape, jnp.float64)

    learner = INNER_LEARNERS[inner]
    norm = Norm(1 + 0.1 * draw(F), 0.1 * draw(F))
    slot_scale_b = 1 / jnp.arange(1.0, mini_batch_size + 1) + 0.05 * draw(mini_batch_size) ** 2
    weights = jax.tree.map(lambda w: w + 0.1 * draw(*w.shape), learner.init(next(keys), F, 0.3))
    is_valid = jnp.arange(length) < valid
    rate = jnp.where(is_valid, 0.5 * jax.nn.sigmoid(draw(length)), 0)
    return (
        learner,
        norm,
        slot_scale_b,
        weights,
        Tokens(draw(length, F), draw(length, F), draw(length, F), rate, is_valid),
    )


def by_hand(learner, norm, slot_scale_b, weights, tokens):
    """Do mini-batch gradient descent in Python loops, as scan.py's docstring defines it.

    Returns: (outputs [L, F], the weights that the last token reads).
    """
    gradient_of = jax.jit(jax.grad(partial(inner_loss, learner)))
    output_of = jax.jit(partial(read_out, learner))
    outputs = []
    start = weights
    seen = weights
    gradients = []
    for t in range(len(tokens.key)):
        slot = t % len(slot_scale_b)
        if slot == 0 and t:
            start = seen
            gradients = []
        gradient = gradient_of(start, norm, tokens.key[t], tokens.value[t])
        gradients.append(jax.tree.map(lambda g, t=t: tokens.rate[t] * g, gradient))
        total = jax.tree.map(lambda *g: sum(g), *gradients)
        seen = jax.tree.map(lambda w, g, s=slot: w - slot_scale_b[s] * g, start, total)
        outputs.append(output_of(seen, norm, tokens.query[t]))
    return jnp.stack(outputs), seen


def both_cores(inner):
    learner = INNER_LEARNERS[inner]
    return {"scan": lambda *args: ttt_scan(learner, *args), "dual": ttt_dual}


@functools.cache
def compiled(name, inner, aligned):
    return jax.jit(lambda *args: both_cores(inner)[name](*args, aligned))


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("mini_batch_size", [1, 3, 7, 20])
def test_is_mini_batch_gradient_descent_written_out_by_hand(inner, mini_batch_size):
    # 1 is online gradient descent, 7 batch gradient descent over the 7 tokens, 3 leaves a partial
    # mini-batch
    learner, norm, scale, weights, tokens = problem(7, mini_batch_size, inner)
    expected, _ = by_hand(learner, norm, scale, weights, tokens)
    for name in both_cores(inner):
        outputs, _ = compiled(name, inner, True)(norm, scale, initial_state(weights), tokens)
        np.testing.assert_allclose(outputs, expected, rtol=1e-10, err_msg=name)


def test_any_inner_learner_works():
    # Given an inner learner that no fast form knows, two scales that multiply the key
    def apply(weights, x):
        return weights["a"] * jnp.tanh(weights["b"] * x)

    learner = InnerLearner(
        lambda key, width, std: {"a": jnp.ones(width), "b": jnp.ones(width)}, apply
    )
    _, norm, scale, _, tokens = problem(6, 2)
    weights = learner.init(None, F, 0.0)
    # When it is scanned, then the result is gradient descent on these weights
    outputs, state = ttt_scan(learner, norm, scale, initial_state(weights), tokens, True)
    expected, last = by_hand(learner, norm, scale, weights, tokens)
    np.testing.assert_allclose(outputs, expected, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), state.weights, last)


# length and mini_batch_size: online, a partial last mini-batch, shorter than a mini-batch
SHAPES = [(6, 1), (7, 3), (3, 6)]


@functools.cache
def objective(name, inner, aligned):
    """Return a function of a problem's floats: a random function of outputs and state.

    It returns ((value, (valid outputs, state)), gradients), compiled once per shape.
    """
    core = both_cores(inner)[name]

    def run(norm, scale, weights, floats, valid_L, cotangent):
        length = len(valid_L)
        start = initial_state(weights)

        def tokens(floats, valid_L):  # the rate of an invalid token is 0
            return Tokens(*floats[:3], jnp.where(valid_L, floats[3], 0), valid_L)

        if not aligned:  # a state inside a mini-batch that depends on what is differentiated
            half = tokens((None, *floats[1:]), jnp.arange(length) < length // 2)
            _, start = core(norm, scale, start, half, True)
        outputs, state = core(norm, scale, start, tokens(floats, valid_L), aligned)
        after = sum(jnp.sin(x).sum() for x in jax.tree.leaves((state.weights, state.gradients)))
        return (outputs * cotangent).sum() + after, (outputs * valid_L[:, None], state)

    return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2, 3), has_aux=True))


@pytest.mark.parametrize("inner, shape", [*(("linear", s) for s in SHAPES), ("mlp", SHAPES[1])])
@settings(max_examples=3)
@given(st.integers(0, 9), st.integers(0, 2**16))
def test_dual_equals_scan_in_values_states_and_gradients(inner, shape, valid, seed):
    length, mini_batch_size = shape
    _, norm, scale, weights, tokens = problem(
        length, mini_batch_size, inner, min(valid, length), seed
    )
    cotangent = jax.random.normal(jax.random.key(seed + 1), (length, F), jnp.float64)
    cotangent = cotangent * tokens.valid[:, None]
    for aligned in (True, False):
        args = norm, scale, weights, tokens[:4], tokens.valid, cotangent
        expected = objective("scan", inner, aligned)(*args)
        got = objective("dual", inner, aligned)(*args)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11), got, expected
        )


@pytest.mark.parametrize("name", ["scan", "dual"])
@pytest.mark.parametrize("mini_batch_size", [1, 3, 10])
def test_an_output_depends_on_no_later_token(name, mini_batch_size):
    _, norm, scale, weights, tokens = problem(7, mini_batch_size)
    core = both_cores("linear")[name]

    def outputs(floats):
        return core(norm, scale, initial_state(weights), Tokens(*floats, tokens.valid), True)[
            0
        ].sum(-1)

    jacobians = jax.jit(jax.jacrev(outputs))(tokens[:4])
    for jacobian in jacobians:  # [7, 7, ...]: d output_i / d token_j
        influence = np.abs(np.asarray(jacobian)).reshape(7, 7, -1).sum(-1)
        assert not np.triu(influence, 1).any()
    keys_influence = np.abs(np.asarray(jacobians[1])).sum(-1)
    assert (np.tril(keys_influence) > 0).sum() == 28, (
        "each output depends on every key up to its own"
    )


PIECES = [  # mini_batch_size and the lengths of pieces of a sequence
    (1, (3, 2)),
    (3, (1, 4, 2)),
    (4, (2, 2)),
]


@pytest.mark.parametrize("name", ["scan", "dual"])
@pytest.mark.parametrize("inner", ["linear", "mlp"])
@settings(max_examples=6)
@given(st.sampled_from(PIECES), st.integers(0, 2**16))
def test_pieces_give_what_the_whole_gives(name, inner, case, seed):
    mini_batch_size, pieces = case
    _, norm, scale, weights, tokens = problem(sum(pieces), mini_batch_size, inner, seed=seed)
    expected, last = compiled(name, inner, True)(norm, scale, initial_state(weights), tokens)
    state = initial_state(weights)
    outputs = []
    start = 0
    for size in pieces:
        stop = start + size
        piece = jax.tree.map(lambda x, start=start, stop=stop: x[start:stop], tokens)
        output, state = compiled(name, inner, False)(norm, scale, state, piece)
        outputs.append(output)
        start = stop
    np.testing.assert_allclose(jnp.concatenate(outputs), expected, rtol=1e-9, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), state, last)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("mini_batch_size", [1, 4, 10])
def test_one_token_at_a_time_gives_what_the_whole_gives(inner, mini_batch_size):
    learner, norm, scale, weights, tokens = problem(9, mini_batch_size, inner)
    expected, last = compiled("scan", inner, True)(norm, scale, initial_state(weights), tokens)
    state = initial_state(weights)
    step = jax.jit(partial(ttt_step, learner))
    for t in range(9):
        token = tokens.query[t], tokens.key[t], tokens.value[t], tokens.rate[t]
        state, output = step(norm, scale, state, *token)
        np.testing.assert_allclose(output, expected[t], rtol=1e-9, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), state, last)
