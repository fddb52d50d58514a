"""A batch by slices against the whole batch, and when a batch is cut at all."""

import jax
import numpy as np
import pytest

from ttt4rec_jax.ttt import slices


def test_slices_give_the_values_and_gradients_of_the_whole():
    """Seven sequences in three slices, so that the last one is filled up."""
    x = jax.random.normal(jax.random.key(0), (7, 4, 5))
    weight = jax.random.normal(jax.random.key(1), (5, 5))
    length = jax.numpy.array([4, 1, 0, 3, 2, 4, 2])
    cotangent = jax.random.normal(jax.random.key(2), x.shape)

    def loss(number):
        def of(weight, x):
            def layer(x, length):
                valid = jax.numpy.arange(4)[:, None] < length[:, None, None]
                return jax.numpy.tanh(x @ weight) * valid

            outputs = slices.by_slices(layer, number, x, length)
            return (outputs * cotangent).sum(), outputs

        return jax.jit(jax.value_and_grad(of, (0, 1), has_aux=True))

    expected = loss(1)(weight, x)
    program = loss(3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        program(weight, x),
        expected,
    )
    assert "while" in program.lower(weight, x).as_text()


@pytest.mark.parametrize(
    "shape, on_cpu, devices, expected",
    [
        ((256, 50, 64), True, 1, 8),
        ((256, 10, 64), True, 1, 1),  # small
        ((256, 50, 256), True, 1, 32),  # of 8 sequences, which are the fewest
        ((17, 100_000, 64), True, 1, 3),
        ((256, 50, 256, 16_384), True, 1, 64),  # of 4 sequences, whose fast weights fit
        ((256, 50, 256, 1_000_000), True, 1, 256),
        ((256, 50, 64), False, 1, 1),
        ((256, 50, 64), True, 2, 1),
    ],
)
def test_large_batches_on_one_cpu_are_cut(shape, on_cpu, devices, expected, monkeypatch):
    monkeypatch.setattr(slices, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert slices.num_slices(*shape) == expected
