"""The chunked form of TTT-Linear equals its definition in values and in every gradient."""

import functools
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt4rec_jax.ttt.chunked import ttt_chunked
from ttt4rec_jax.ttt.inner import INNER_LEARNERS, Norm
from ttt4rec_jax.ttt.layer import Ranges, TttConfig, TttLayer
from ttt4rec_jax.ttt.scan import State, Tokens, ttt_scan
from ttt4rec_jax.ttt.select import select_impl

WIDTH = 4
SHAPES = [  # length, mini_batch_size, chunk, whether it starts in the middle of a mini-batch
    (10, 1, 4, False),  # online, the last chunk is not full
    (10, 1, 100, False),  # online, one chunk
    (11, 3, 6, False),  # several mini-batches per chunk, the last one partial
    (11, 3, 1, True),  # a chunk is at least a mini-batch
    (7, 20, 4, False),  # shorter than a mini-batch
    (9, 5, 10, True),
    (9, 4, 4, True),
    (6, 6, 6, False),  # batch gradient descent
]
CASES = [  # a shape, its valid tokens, the tokens in the state's open mini-batch
    (SHAPES[0], 10, 0),
    (SHAPES[1], 7, 0),  # padding
    (SHAPES[2], 11, 0),
    (SHAPES[3], 8, 2),
    (SHAPES[4], 7, 0),
    (SHAPES[5], 1, 3),  # the open mini-batch stays open
    (SHAPES[6], 0, 3),  # nothing valid: the state stays
    (SHAPES[7], 6, 0),
]


def random_case(seed: int, length: int, mini_batch_size: int, filled: int, dtype):
    """Return everything that gradients are taken of.

    (norm, slot_scale_b, weights, carried gradients, q, k, v, rate)
    """
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), dtype)

    def weights(scale):
        return ((normal(WIDTH, WIDTH, scale=scale), normal(WIDTH, scale=scale)),)

    return (
        Norm(1 + normal(WIDTH, scale=0.3), normal(WIDTH, scale=0.3)),
        jnp.maximum(
            1 / jnp.arange(1, mini_batch_size + 1, dtype=dtype)
            + normal(mini_batch_size, scale=0.1),
            0,
        ),
        weights(0.5),
        weights(0.3 if filled else 0.0),
        *(normal(length, WIDTH) for _ in range(3)),
        jnp.asarray(rng.uniform(0.05, 0.5, length), dtype),
    )


@functools.cache
def compiled(chunk: int | None, aligned: bool):
    """Return a function of (case, valid, filled); chunk None is the definition.

    It returns ((outputs with padding cleared, state), the gradients of a random linear function of
    both), and is compiled once for all cases of a shape.
    """
    definition = partial(ttt_scan, INNER_LEARNERS["linear"])
    core = definition if chunk is None else partial(ttt_chunked, chunk=chunk)

    def loss(norm, slot_scale_b, weights, carried, q, k, v, rate, valid, filled):
        rng = np.random.default_rng(0)
        valid_L = jnp.arange(len(q)) < valid
        state = State(weights, carried, filled)
        tokens = Tokens(q, k, v, jnp.where(valid_L, rate, 0), valid_L)
        outputs, state = core(norm, slot_scale_b, state, tokens, aligned)
        outputs = jnp.where(valid_L[: len(outputs), None], outputs, 0)
        floats = jax.tree.leaves((outputs, state.weights, state.gradients))
        return sum((x * rng.normal(size=x.shape)).sum() for x in floats), (outputs, state)

    # aligned promises that nothing is carried
    argnums = tuple(i for i in range(8) if not (aligned and i == 3))
    gradient = jax.jit(jax.value_and_grad(loss, argnums, has_aux=True))

    def run(case, valid, filled):
        (_, result), gradients = gradient(*case, jnp.int32(valid), jnp.int32(filled))
        return result, gradients

    return run


def assert_close(actual, expected, tolerance):
    for (path, a), b in zip(
        jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
        )


def assert_equals_definition(shape, valid, filled, seed, tolerance):
    length, size, chunk, carries = shape
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    case = random_case(seed, length, size, filled, dtype)
    fast = compiled(chunk, not carries)(case, valid, filled)
    assert_close(fast, compiled(None, not carries)(case, valid, filled), tolerance)


@pytest.mark.parametrize(("shape", "valid", "filled"), CASES)
def test_equals_definition(shape, valid, filled):
    with jax.enable_x64(True):
        assert_equals_definition(shape, valid, filled, 1, 1e-9)


@pytest.mark.parametrize(("shape", "valid", "filled"), [CASES[2], CASES[5]])
def test_equals_definition_in_float32(shape, valid, filled):
    assert_equals_definition(shape, valid, filled, 1, 1e-4)


@settings(max_examples=20)
@given(st.data())
def test_equals_definition_anywhere(data):
    length, size, _, carries = shape = data.draw(st.sampled_from(SHAPES), "shape")
    valid = data.draw(st.integers(0, length), "valid")
    filled = data.draw(st.integers(0, size - 1), "filled") if carries else 0
    with jax.enable_x64(True):
        assert_equals_definition(shape, valid, filled, data.draw(st.integers(0, 99), "seed"), 1e-9)


def layer(impl: str, size: int, chunk: int = 0):
    config = TttConfig(dim=8, num_heads=2, mini_batch_size=size, impl=impl, chunk=chunk)
    return TttLayer(config, nnx.Rngs(0), Ranges(w0_range=0.3))


@pytest.mark.parametrize("size", [1, 9])  # test_layer.py has a size between
def test_last_position_is_that_of_the_full_read_out(size):
    with jax.enable_x64(True):
        x_BxLxD = jax.random.normal(jax.random.key(0), (4, 9, 8))
        length_B = jnp.array([9, 5, 1, 6])

        def last(module, x, last_only):
            outputs = module(x, length_B, last_only)
            outputs = (
                outputs
                if last_only
                else jnp.take_along_axis(outputs, (length_B - 1)[:, None, None], 1)
            )
            return jnp.sin(outputs).sum(), outputs

        fast, slow = (
            nnx.jit(
                nnx.value_and_grad(partial(last, last_only=only), argnums=(0, 1), has_aux=True)
            )(layer(impl, size, 3), x_BxLxD)
            for impl, only in (("chunked", True), ("scan", False))
        )
        assert_close(jax.tree.leaves(fast), jax.tree.leaves(slow), 1e-9)


def test_last_position_after_a_carried_state():
    with jax.enable_x64(True):
        module = layer("chunked", 4, 4)
        x_LxD = jax.random.normal(jax.random.key(0), (12, 8))
        for cut, end in [(2, 12), (3, 4), (3, 9)]:

            @jax.jit
            def both(x_LxD, cut=cut, end=end):
                _, state = module.sequence(x_LxD[:cut], cut)
                return module.sequence(x_LxD[cut:], end - cut, state, True)[0][0], module.sequence(
                    x_LxD, end
                )[0][end - 1]

            np.testing.assert_allclose(*both(x_LxD), atol=1e-12)


def test_padding_changes_no_bit():
    module = layer("chunked", 2, 4)
    x_BxLxD = jax.random.normal(jax.random.key(0), (3, 10, 8))
    length_B = jnp.array([10, 7, 1])
    padded = jnp.arange(10)[:, None] >= length_B[:, None, None]

    graphdef, params = nnx.split(module, nnx.Param)

    @jax.jit
    def outputs_and_gradients(x):
        def loss(params):
            outputs = jnp.where(padded, 0, nnx.merge(graphdef, params)(x, length_B))
            return jnp.sin(outputs).sum(), outputs

        return jax.value_and_grad(loss, has_aux=True)(params)

    clean = outputs_and_gradients(x_BxLxD)
    dirty = outputs_and_gradients(jnp.where(padded, jnp.nan, x_BxLxD))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_lowers_for_every_platform_without_a_loop_over_the_batch():
    graphdef, params = nnx.split(layer("chunked", 1, 4), nnx.Param)

    def loss(params, x, length):
        return nnx.merge(graphdef, params)(x, length).sum()

    arguments = (params, jnp.ones((37, 4, 8)), jnp.full(37, 4))
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=("cpu", "cuda", "tpu"))(
        *arguments
    )
    assert "callback" not in exported.mlir_module()
    trips = [
        eqn.params["length"]
        for eqn in every_equation(jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr, "scan")
    ]
    assert trips == [4, 4]  # one chunk of four mini-batches: solved forwards, then backwards


def every_equation(jaxpr, name: str):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            yield eqn
        for inner in jax.tree.leaves(
            tuple(eqn.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from every_equation(inner, name)


def test_the_selected_implementation_can_run_the_inner_learner():
    assert select_impl(10, 1, "linear")[0] == "chunked"
    assert select_impl(200, 10, "linear")[0] == "dual"
    assert select_impl(10, 1, "mlp")[0] == "dual"
    assert select_impl(10, 1, "my_learner")[0] == "scan"


@pytest.mark.parametrize(
    ("length", "size", "chunk"),
    [
        (50, 1, 50),  # one chunk
        (10, 20, 20),  # at least a mini-batch
        (200, 1, 25),
        (64, 1, 32),  # two full chunks rather than three of which one is not
        (200, 10, 20),  # whole mini-batches
        (53, 1, 27),  # one empty slot rather than chunks of a token
        (64, 8, 32),
        (90, 45, 45),  # a mini-batch longer than usual chunks
    ],
)
def test_chunks_are_whole_mini_batches_of_about_25_tokens(length, size, chunk):
    assert select_impl(length, size, "linear")[1] == chunk
