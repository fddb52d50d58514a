"""Steps that are not finite are stopped or skipped; clipped gradients; absurd settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    NUM_TOY_ITEMS,
    fit_run,
    last_state,
    random_batch,
    small_config,
    state_of,
    steps_of,
    toy_step,
)

from ttt4rec_jax import models
from ttt4rec_jax.config import Config, TrainConfig
from ttt4rec_jax.pipeline import result as report
from ttt4rec_jax.training import step as train_step
from ttt4rec_jax.training.compile import compile_runs
from ttt4rec_jax.training.optim import clipped, optimizer, sparse_rows
from ttt4rec_jax.training.progress import DivergedError, summary


def bits(state):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


def test_a_step_that_is_not_finite_is_skipped_and_any_other_is_what_it_was():
    *stop, first = steps_of("sasrec")
    *skip, _ = steps_of("sasrec", on_nan="skip")
    batch = random_batch(np.random.default_rng(0), 8, np.arange(1, NUM_TOY_ITEMS + 1))
    poisoned = batch._replace(weight=batch.weight.at[0].set(jnp.nan))
    for is_sparse, skipping in enumerate(skip):
        got, loss = skipping(first, batch, None)
        assert bits(got) != bits(first) and jnp.isfinite(loss)
        if not is_sparse:
            expected, same_loss = stop[0](first, batch, None)
            assert bits(got) == bits(expected) and loss == same_loss
        after, loss = skipping(got, poisoned, None)
        assert bits(after) == bits(got) and jnp.isnan(loss)
        # the loss may be finite, and what the step leaves not
        endless = got._replace(learning_rate=jnp.asarray(jnp.inf))
        after, loss = skipping(endless, batch, None)
        assert bits(after) == bits(endless) and jnp.isnan(loss)


@pytest.fixture(scope="module")
def poisonable(random_dataset):
    """Executables that skip steps; those whose first example's number divides by 3 are poisoned."""
    make_batch = train_step.make_batch

    def poisoned(clicks, examples, order_B, *rest):
        batch = make_batch(clicks, examples, order_B, *rest)
        return batch._replace(weight=jnp.where(order_B[0] % 3 == 0, jnp.nan, batch.weight))

    asked = small_config(epochs=2, batch_size=16, on_nan="skip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "make_batch", poisoned)
        return asked, compile_runs([asked], random_dataset)


def test_skipped_steps_are_counted_where_a_run_is_told_of(poisonable, random_dataset, tmp_path):
    asked, executables = poisonable
    outcome = fit_run(asked, random_dataset, tmp_path / "run", executables)
    expected = [
        int((executables.begin_epoch(epoch)[1][0, :, 0] % 3 == 0).sum()) for epoch in range(2)
    ]
    assert min(expected) > 0 and max(expected) < executables.program.training.num_steps
    assert [line["skipped_steps"] for line in outcome.history] == expected
    assert all(0.1 < line["loss"] < 2 for line in outcome.history), "the mean over the other steps"
    counts = {"users": 1, "items": 1, "interactions": 1}
    seconds = {"prepare": 0.0, "total": 0.0}
    result = report.result(
        asked, {"name": "test", "counts": counts, "sha256": "0"}, outcome, seconds, "cpu"
    )
    assert result["skipped_steps"] == sum(expected)
    assert f"skipped    {sum(expected)} steps with non-finite values" in report.table(result)
    state = last_state(executables, tmp_path / "run")
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state))


def test_an_epoch_of_skipped_steps_alone_ends_the_run(
    poisonable, random_dataset, tmp_path, monkeypatch
):
    asked, executables = poisonable
    begin_epoch = executables.begin_epoch

    def all_poisoned(epoch):
        steps = begin_epoch(epoch)
        poisoned = jnp.zeros_like(steps.order_RxSxB)
        return steps._replace(order_RxSxB=poisoned) if epoch == 1 else steps

    monkeypatch.setattr(executables, "begin_epoch", all_poisoned)
    num_steps = executables.program.training.num_steps
    said = f"all {num_steps} steps of epoch 2 were skipped.*last finite .* is that of epoch 1"
    with pytest.raises(DivergedError, match=said):
        fit_run(asked, random_dataset, tmp_path / "run", executables)


# Clipping


def test_a_gradient_is_shortened_only_if_it_is_longer():
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    jax.tree.map(np.testing.assert_array_equal, clipped(gradient, 5.0), gradient)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y / 10, rtol=1e-6),
        clipped(gradient, 0.5),
        gradient,
    )
    assert all(
        jnp.isnan(x).all() for x in jax.tree.leaves(clipped({"a": jnp.array([1e30, 1.0])}, 1.0))
    )


def test_clipping_is_that_of_the_whole_gradient_for_sparse_rows_too():
    # Given first steps of Adam, whose mean is a tenth of the gradient that it was given
    tx = optimizer(TrainConfig(clip_norm=0.01))
    first = state_of(
        tx,
        {
            "embedding": jnp.asarray(np.random.default_rng(1).normal(size=(NUM_TOY_ITEMS + 1, 3))),
            "bias": jnp.zeros(()),
        },
    )
    batch = random_batch(np.random.default_rng(0), 8, np.arange(1, 6))
    steps = jax.jit(toy_step(tx)), jax.jit(sparse_rows(toy_step(tx)))
    found = [optax.tree.get(step(first, batch, None)[0].opt_state, "mu") for step in steps]
    # Then the norm of all of it is as asked for, and the sparse step's rows are the dense one's
    for mean in found:
        assert float(optax.tree.norm(mean)) == pytest.approx(0.001, rel=1e-4)
        assert jnp.abs(mean["bias"]) > 0 and (jnp.abs(mean["embedding"][1:6]) > 0).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), *found)


def test_stacked_runs_are_clipped_each_by_its_own_norm():
    stack = {"a": jnp.array([[3.0, 4.0], [0.3, 0.4]])}
    np.testing.assert_allclose(
        jax.vmap(lambda g: clipped(g, 1.0))(stack)["a"], [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6
    )


def test_what_is_off_changes_no_program():
    a, b = (
        jax.tree.structure(train_step.new_sums(Config(train=TrainConfig(on_nan=kind)), 2))
        for kind in ("stop", "skip")
    )
    assert a.num_leaves == 2 and b.num_leaves == 3


# Absurd settings of a TTT layer


@pytest.mark.parametrize(
    "model",
    [{"inner_learning_rate": 1e30}, {"inner": "mlp", "inner_learning_rate": 1e4}],
    ids=["linear", "mlp"],
)
def test_absurd_inner_settings_end_in_finite_figures_or_are_told(model, random_dataset, tmp_path):
    asked = small_config(model | {"ffn": "none"}, epochs=1, batch_size=128)
    executables = compile_runs([asked], random_dataset)
    ends = set()
    for standard_deviation in (0.0, 0.3, 1e3, 1e18, 3e38):
        ranges = np.full(
            (2, 1), standard_deviation, np.float32
        )  # arguments of a program, so that one serves all
        _, params = models.split(
            asked.model, random_dataset.num_items, np.zeros(1, np.uint32), *ranges
        )
        program = executables.program
        first_state = program.training.first_state._replace(params=params)
        training = dataclasses.replace(program.training, first_state=first_state)
        executables.program = dataclasses.replace(program, training=training)
        try:
            outcome = fit_run(
                asked, random_dataset, tmp_path / str(standard_deviation), executables
            )
        except DivergedError as error:
            assert "not finite" in str(error) or "NaN" in str(error)
            ends.add("told")
            continue
        figures = [
            summary(outcome.test_ranks),
            outcome.validation,
            [line["loss"] for line in outcome.history],
        ]
        assert all(np.isfinite(x) for x in jax.tree.leaves(figures))
        ends.add("finite")
    assert ends == {"finite", "told"}
