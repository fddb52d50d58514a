"""matmul.py against plain products and means, in the CPU's form and in the plain one."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ttt4rec_jax.ttt import matmul


@pytest.fixture(params=[True, False], ids=["cpu", "other"])
def platform(request, monkeypatch):
    monkeypatch.setattr(matmul, "on_cpu", lambda: request.param)
    jax.clear_caches()  # programs that an earlier test traced in the other form


def of_shape(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def agree(fast, plain, *arguments):
    """Check values, and gradients of a sum that weighs every element differently."""

    def weighed(function):
        return lambda *args: (function(*args) * of_shape(9, *plain(*args).shape)).sum()

    np.testing.assert_allclose(fast(*arguments), plain(*arguments), rtol=1e-5, atol=1e-6)
    every = tuple(range(len(arguments)))
    for got, expected in zip(
        jax.jit(jax.grad(weighed(fast), every))(*arguments),
        jax.grad(weighed(plain), every)(*arguments),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_means(platform):
    agree(matmul.mean, lambda x: x.mean(-1, keepdims=True), of_shape(0, 3, 5, 32))


def test_inner_products_of_rows(platform):
    agree(
        jax.vmap(matmul.gram),
        lambda x, y: jnp.einsum("BiF,BjF->Bij", x, y),
        of_shape(0, 4, 7, 8),
        of_shape(1, 4, 5, 8),
    )


def test_weighted_sums_of_rows(platform):
    agree(jax.vmap(matmul.matmul), jnp.matmul, of_shape(0, 4, 7, 5), of_shape(1, 4, 5, 8))


def test_projections_of_a_batch(platform):
    agree(matmul.project, jnp.matmul, of_shape(0, 4, 7, 16), of_shape(1, 16, 12))


def test_the_fast_form_is_another_program(monkeypatch):
    """Otherwise the two cases above would be the same."""
    monkeypatch.setattr(matmul, "on_cpu", lambda: True)
    assert "optimization_barrier" in str(jax.make_jaxpr(matmul.transposed)(jnp.ones((2, 3))))
    assert "dot_general" in str(jax.make_jaxpr(matmul.mean)(jnp.ones((2, 3))))


def test_annotated_shapes_are_checked_under_pytest():
    """--jaxtyping-packages in setup.cfg; without it the annotations would only be comments."""
    with pytest.raises(jaxtyping.TypeCheckError, match="y_jxF"):
        matmul.gram(jnp.ones((2, 3)), jnp.ones((2, 4)))
