"""The Flax layer: padding, the last position, and single tokens against the whole sequence.

And its backbones: mamba's convolutions and gate against NumPy, the transformer's parameters.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax.ttt.inner import INNER_LEARNERS, Norm
from ttt4rec_jax.ttt.layer import Ranges, TttConfig, TttLayer, is_param
from ttt4rec_jax.ttt.rope import rotate
from ttt4rec_jax.ttt.scan import Tokens, initial_state, ttt_scan

IMPLS = ["scan", "dual", "chunked"]
WAYS = [
    ("scan", "linear"),
    ("scan", "mlp"),
    ("dual", "linear"),
    ("dual", "mlp"),
    ("chunked", "linear"),
]
BACKBONES = ["transformer", "mamba"]
SIZES = [(1, "transformer"), (4, "transformer"), (10, "transformer"), (1, "mamba"), (4, "mamba")]


def make_layer(mini_batch_size, impl="dual", inner="linear", backbone="transformer"):
    config = TttConfig(
        dim=8,
        num_heads=2,
        mini_batch_size=mini_batch_size,
        impl=impl,
        inner=inner,
        backbone=backbone,
    )
    return TttLayer(config, nnx.Rngs(0), Ranges(0.5, 0.3))


def shaken(layer):
    """The layer with noise on every parameter, so that none is at a special value."""
    params = nnx.state(layer, nnx.Param)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    noisy = [
        p + 0.2 * jax.random.normal(key, p.shape, p.dtype)
        for p, key in zip(leaves, keys, strict=True)
    ]
    nnx.update(layer, jax.tree.unflatten(treedef, noisy))
    return layer


def assert_close(got, expected, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


def inputs(batch, length):
    return jax.random.normal(jax.random.key(3), (batch, length, 8))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mini_batch_size, backbone", SIZES)
def test_padding_changes_no_bit_and_more_of_it_only_rounding(impl, mini_batch_size, backbone):
    layer = shaken(make_layer(mini_batch_size, impl, backbone=backbone))
    x = inputs(3, 7)
    lengths = jnp.array([7, 3, 1])
    run = nnx.jit(lambda layer, x: layer(x, lengths))
    valid = (jnp.arange(7) < lengths[:, None])[..., None]
    expected = jnp.where(valid, run(layer, x), 0)
    for filler in (0.0, 1e30, jnp.nan):
        np.testing.assert_array_equal(
            jnp.where(valid, run(layer, jnp.where(valid, x, filler)), 0), expected
        )
    longer = run(layer, jnp.pad(x, [(0, 0), (0, 6), (0, 0)]))[:, :7]
    np.testing.assert_allclose(jnp.where(valid, longer, 0), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "impl, inner, mini_batch_size, backbone",
    [
        ("scan", "mlp", 4, "transformer"),
        ("dual", "linear", 1, "transformer"),
        ("chunked", "linear", 4, "transformer"),
        ("scan", "mlp", 4, "mamba"),
        ("chunked", "linear", 4, "mamba"),
    ],
)
def test_last_only_is_the_last_row_in_values_and_gradients(impl, inner, mini_batch_size, backbone):
    layer = make_layer(mini_batch_size, impl, inner, backbone)
    lengths = jnp.arange(1, 10)
    x = inputs(9, 9)
    graphdef, params = nnx.split(layer, nnx.Param)

    def whole(params, x):
        return jnp.take_along_axis(
            nnx.merge(graphdef, params)(x, lengths), lengths[:, None, None] - 1, 1
        )

    def last(params, x):
        return nnx.merge(graphdef, params)(x, lengths, last_only=True)

    def values_and_gradients(read):
        def loss(params, x):
            outputs = read(params, x)
            return jnp.sin(outputs).sum(), outputs

        (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
            params, x
        )
        return outputs, gradients

    (got, got_gradients), (expected, expected_gradients) = map(values_and_gradients, (last, whole))
    assert_close(got, expected, 1e-4, 1e-6)
    assert_close(got_gradients, expected_gradients, 2e-3, 2e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("mini_batch_size", [1, 4])
def test_steps_give_what_the_sequence_gives(inner, mini_batch_size, backbone):
    layer = shaken(make_layer(mini_batch_size, inner=inner, backbone=backbone))
    x = inputs(1, 9)[0]
    run = jax.jit(layer.sequence)
    step = jax.jit(layer.step)
    expected, last = run(x, 9)
    for state, cut in [(layer.initial_state(), 0), (run(x, 2)[1], 2), (run(x, 5)[1], 5)]:
        for t in range(cut, 9):
            output, state = step(x[t], state)
            assert_close(output, expected[t])
        assert_close(state, last)


# mamba's part of the state is the same in every way to run the core
@pytest.mark.parametrize(
    "impl, inner, backbone",
    [(*way, "transformer") for way in WAYS]
    + [("scan", "mlp", "mamba"), ("chunked", "linear", "mamba")],
)
@pytest.mark.parametrize("mini_batch_size", [1, 4])
def test_a_prefix_and_its_continuation_give_the_whole(impl, inner, mini_batch_size, backbone):
    layer = shaken(make_layer(mini_batch_size, impl, inner, backbone))
    x = inputs(1, 11)[0]
    run = jax.jit(layer.sequence, static_argnames="last_only")
    expected, last = run(x, 11)
    for cut in (0, 1, 2, 4, 6, 10, 11):
        # both are padded to one shape: what comes after their lengths must not count
        first, state = run(x, cut)
        rest = jnp.roll(x, -cut, 0)
        second, after = run(rest, 11 - cut, state)
        assert_close((jnp.concatenate([first[:cut], second[: 11 - cut]]), after), (expected, last))
        if cut < 11:
            assert_close(run(rest, 11 - cut, state, last_only=True), (expected[-1:], last))


@pytest.mark.parametrize("impl, inner", WAYS)
@pytest.mark.parametrize("mini_batch_size", [1, 4])
def test_mamba_is_causal(impl, inner, mini_batch_size):
    layer = shaken(make_layer(mini_batch_size, impl, inner, "mamba"))
    x = inputs(1, 7)
    lengths = jnp.array([7])
    run = nnx.jit(lambda layer, x: layer(x, lengths)[0])
    expected = run(layer, x)
    for changed in range(7):
        got = run(layer, x.at[0, changed].add(1))
        np.testing.assert_array_equal(got[:changed], expected[:changed])
        assert (jnp.abs(got - expected)[changed:].max(-1) > 0).all()


@pytest.mark.parametrize("inner, impls", [("linear", IMPLS), ("mlp", IMPLS[:2])])
@pytest.mark.parametrize("mini_batch_size", [1, 4])
def test_gradients_of_mamba_are_finite_and_the_same_in_every_implementation(
    inner, impls, mini_batch_size
):
    lengths = jnp.array([6, 5, 1])
    valid = (jnp.arange(6) < lengths[:, None])[..., None]

    def gradients(impl, *fillers):
        graphdef, params = nnx.split(
            shaken(make_layer(mini_batch_size, impl, inner, "mamba")), nnx.Param
        )

        @jax.jit
        @partial(jax.grad, argnums=(0, 1))
        def gradient(params, x):
            return jnp.sin(jnp.where(valid, nnx.merge(graphdef, params)(x, lengths), 0)).sum()

        return [gradient(params, jnp.where(valid, inputs(3, 6), filler)) for filler in fillers]

    with jax.enable_x64(True):
        expected, dirty = gradients("scan", 0.0, jnp.nan)
        assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(expected))
        jax.tree.map(np.testing.assert_array_equal, dirty, expected)
        for impl in impls[1:]:
            assert_close(gradients(impl, jnp.nan)[0], expected, 1e-9, 1e-11)


def mamba_by_hand(layer, x_LxD):
    """Return the mamba backbone's outputs [L, D], in NumPy around the core's definition."""
    H = layer.config.num_heads
    (L, D) = x_LxD.shape
    b = layer.config.mini_batch_size
    x = np.asarray(x_LxD)
    F = D // H

    def parameter(name):
        return np.asarray(getattr(layer, name)[...])

    def convolved(rows, kernel, bias):
        past = range(len(kernel))  # the last of the kernel is for the token itself
        return np.array(
            [
                [
                    bias[d] + sum(kernel[-1 - j, d] * rows[t - j, d] for j in past if j <= t)
                    for d in range(D)
                ]
                for t in range(L)
            ]
        )

    def rotated(rows):
        # every pair of neighbouring features of a head is a complex number
        pairs = rows.reshape(L, H, F // 2, 2) @ np.array([1, 1j])
        angle = (np.arange(L) % b)[:, None, None] * layer.config.rope_theta ** (
            -np.arange(0, F, 2) / F
        )
        pairs = pairs * np.exp(1j * angle)
        return np.stack([pairs.real, pairs.imag], -1).reshape(L, D)

    shared = x @ parameter("theta_qk")
    q = rotated(convolved(shared, parameter("conv_q_kernel"), parameter("conv_q_bias")))
    k = rotated(convolved(shared, parameter("conv_k_kernel"), parameter("conv_k_bias")))
    v = x @ parameter("theta_v")
    learner = INNER_LEARNERS[layer.config.inner]
    core = jax.jit(lambda *arguments: ttt_scan(learner, *arguments, True))
    slot_scale_b = np.maximum(1 / np.arange(1, b + 1) + parameter("token_index_offset"), 0)
    outputs = []
    for h in range(H):
        own = slice(h * F, (h + 1) * F)
        gate = x @ parameter("lr_gate_kernel")[h, :, 0] + parameter("lr_gate_bias")[h]
        rate = layer.config.inner_learning_rate / F / (1 + np.exp(-gate))
        norm = Norm(parameter("inner_norm_scale")[h], parameter("inner_norm_bias")[h])
        weights = jax.tree.map(lambda p, h=h: p[...][h], layer.fast_weights, is_leaf=is_param)
        tokens = Tokens(
            *map(jnp.asarray, (q[:, own], k[:, own], v[:, own], rate, np.ones(L, bool)))
        )
        outputs.append(core(norm, slot_scale_b, initial_state(weights), tokens)[0])
    z = np.concatenate(outputs, 1)
    z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-6)
    z = z * parameter("post_norm_scale") + parameter("post_norm_bias")
    u = x @ parameter("theta_g")
    return (z * 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))) @ parameter(
        "theta_o"
    )


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("mini_batch_size", [1, 4])
def test_convolutions_and_gate_by_hand(inner, mini_batch_size):
    with jax.enable_x64(True):
        layer = shaken(make_layer(mini_batch_size, inner=inner, backbone="mamba"))
        x = inputs(1, 10)[0]
        outputs, _ = jax.jit(layer.sequence)(x, 10)
        assert_close(outputs, mamba_by_hand(layer, x), 1e-9, 1e-11)


def test_convolutions_begin_lecun_normal_whatever_the_ranges():
    config = TttConfig(dim=256, num_heads=2, mini_batch_size=4, backbone="mamba")
    layer = TttLayer(config, nnx.Rngs(0), Ranges(0.0, 0.0))
    for kernel, bias in [
        (layer.conv_q_kernel, layer.conv_q_bias),
        (layer.conv_k_kernel, layer.conv_k_bias),
    ]:
        np.testing.assert_allclose(jnp.std(kernel[...]), 0.5, rtol=0.1)  # four inputs to an output
        assert not bias[...].any()
    assert (layer.conv_q_kernel[...] != layer.conv_k_kernel[...]).any()


def test_a_seed_draws_the_transformer_backbone_as_before_there_was_another():
    layer = make_layer(4)
    rngs = nnx.Rngs(0)
    for name in ("theta_q", "theta_k", "theta_v", "theta_o"):
        np.testing.assert_array_equal(
            getattr(layer, name)[...], 0.5 * jax.random.normal(rngs.params(), (8, 8))
        )
    keys = jax.random.split(rngs.params(), 2)
    expected = jax.vmap(lambda key: INNER_LEARNERS["linear"].init(key, 4, 0.3)[0][0])(keys)
    np.testing.assert_array_equal(layer.fast_weights[0][0][...], expected)
    np.testing.assert_array_equal(
        layer.lr_gate_kernel[...], 0.5 * jax.random.normal(rngs.params(), (2, 8, 1))
    )
    constants = {
        "inner_norm_scale",
        "inner_norm_bias",
        "lr_gate_bias",
        "token_index_offset",
        "post_norm_scale",
        "post_norm_bias",
    }
    drawn = {"theta_q", "theta_k", "theta_v", "theta_o", "fast_weights", "lr_gate_kernel"}
    assert set(nnx.state(layer, nnx.Param)) == drawn | constants


@pytest.mark.parametrize("backbone", BACKBONES)
def test_steps_lower_for_every_platform_and_loop_on_the_device(backbone):
    layer = make_layer(4, backbone=backbone)

    def stepped(x_LxD):
        return jax.lax.scan(
            lambda state, x: layer.step(x, state)[::-1], layer.initial_state(), x_LxD
        )[1]

    exported = jax.export.export(jax.jit(stepped), platforms=("cpu", "cuda", "tpu"))(
        jnp.ones((6, 8))
    )
    assert "callback" not in exported.mlir_module()


def test_rotary_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 8))

    def score(i, j):
        return (rotate(q, jnp.array([i]), 10000.0) @ rotate(k, jnp.array([j]), 10000.0).T)[0, 0]

    np.testing.assert_allclose(score(7, 3), score(4, 0), rtol=1e-4)
    assert abs(score(7, 3) - score(7, 2)) > 1e-3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_parameter_count_in_closed_form(backbone):
    D = 8
    H = 2
    F = 4
    b = 10
    count = sum(
        p.size for p in jax.tree.leaves(nnx.state(make_layer(b, backbone=backbone), nnx.Param))
    )
    projections = 4 * D * D
    fast = H * (F * F + F)
    inner_norm = 2 * H * F
    gate = H * (D + 1)
    post_norm = 2 * D
    convolutions = 2 * (4 * D + D) if backbone == "mamba" else 0
    assert count == projections + convolutions + fast + inner_norm + gate + b + post_norm
