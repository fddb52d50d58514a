"""Whole runs on small data: that they learn, stop, and go on where they were to the same bits."""

import dataclasses
import gc
import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiled, fit_run, fit_runs, last_state, small_config, without_times

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, EvalConfig, ModelConfig, program
from ttt4rec_jax.runs.checkpoint import Checkpoints
from ttt4rec_jax.runs.folder import RunFolder
from ttt4rec_jax.training import fit, loop
from ttt4rec_jax.training.compile import compile_runs
from ttt4rec_jax.training.interrupt import Interrupted
from ttt4rec_jax.training.optim import cosine_schedule
from ttt4rec_jax.training.program import make_program
from ttt4rec_jax.training.progress import DivergedError, RunProgress, is_better, summary


def test_a_model_without_training_has_no_epochs(cyclic_dataset, tmp_path):
    outcome = fit_run(Config(model=ModelConfig(model="popularity")), cyclic_dataset, tmp_path)
    assert outcome.best_epoch == 0 and outcome.history == []
    assert summary(outcome.test_ranks)["full"]["hit@5"] < 0.6


def test_every_position_trains_an_order_that_popularity_cannot_know(cyclic_dataset, tmp_path):
    # the sampled metrics are 1 long before the full ones are
    config = dataclasses.replace(
        small_config(epochs=25, targets="every", loss="softmax"),
        eval=EvalConfig(select_by="full/ndcg@5"),
    )
    outcome = fit_run(config, cyclic_dataset, tmp_path / "run")
    assert summary(outcome.test_ranks)["full"]["ndcg@5"] > 0.9
    assert outcome.validation["full"]["ndcg@5"] == max(
        line["validation"]["full"]["ndcg@5"] for line in outcome.history
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"dropout": 0.2}, "length_buckets": 2},
        {
            "loss": "sampled_softmax",
            "num_negatives": 16,
            "weight_decay": 0.1,
            "sparse_embeddings": True,
        },
        {
            "model": {"model": "iclrec", "num_intents": 4},
            "targets": "every",
            "batch_tokens": 16,
            "schedule": "cosine",
        },
    ],
    ids=lambda s: "-".join(s),
)
def test_interrupted_and_resumed_is_bit_equal_to_uninterrupted(
    random_dataset, tmp_path, monkeypatch, settings
):
    # Given a run of two epochs that nothing disturbs
    asked = small_config(**{"epochs": 2, "batch_size": 32} | settings)
    executables = compiled([asked], random_dataset)
    expected = fit_run(asked, random_dataset, tmp_path / "whole", executables)

    # When another is asked to stop time and again in the middle of epochs, and resumed until it
    # ends
    def stop_soon(dispatch):
        if dispatch.first % 3 == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "SECONDS_PER_DISPATCH", 0.0)
    monkeypatch.setattr(loop, "FIRST_DISPATCH", 2)
    stops = 0
    got = None
    while got is None:
        try:
            folder = tmp_path / "pieces"
            got = fit_run(asked, random_dataset, folder, executables, on_dispatch=stop_soon)
        except Interrupted:
            stops += 1
            assert stops < 100
    # Then it ends in the same bits
    assert stops >= 4
    assert without_times(got.history) == without_times(expected.history)
    assert got.validation == expected.validation and got.best_epoch == expected.best_epoch
    for protocol, ranks in expected.test_ranks.items():
        jax.tree.map(np.testing.assert_array_equal, got.test_ranks[protocol], ranks)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(last_state(executables, tmp_path / name) for name in ("whole", "pieces")),
    )


def test_more_epochs_on_resume_are_the_longer_run(random_dataset, tmp_path):
    longer = small_config(epochs=3)
    expected = fit_run(longer, random_dataset, tmp_path / "longer")
    fit_run(small_config(epochs=1), random_dataset, tmp_path / "run")
    got = fit_run(longer, random_dataset, tmp_path / "run")
    assert without_times(got.history) == without_times(expected.history)


def test_the_order_that_is_drawn_for_the_compilation_is_the_first_epochs_alone(cyclic_dataset):
    for epoch in (0, 1):  # of a run, and of one that is resumed
        executables = compile_runs([small_config()], cyclic_dataset)
        drawn = executables.begin_epoch(epoch)
        expected = executables.program.training.begin_epoch(epoch)
        assert (drawn.order_RxSxB == expected.order_RxSxB).all()
        assert (drawn.key_R == expected.key_R).all()


def test_a_cosine_schedule_falls_from_the_full_rate_to_zero():
    steps = jnp.arange(0, 101)
    factor = cosine_schedule(100)(steps)
    np.testing.assert_allclose(factor[jnp.array([0, 50, 100])], [1, 0.5, 0], atol=1e-6)
    assert (jnp.diff(factor) < 0).all()


def test_a_cosine_schedule_is_followed(random_dataset):
    asked = small_config(epochs=3, schedule="cosine", batch_size=512, num_negatives=2)
    executables = compiled([asked], random_dataset)
    training = executables.program.training
    assert training.num_steps == 1
    states = [training.first_state]
    for step in range(3):
        state, _ = executables.run_steps(
            loop.copied(states[-1]),
            training.first_sums,
            executables.program.clicks,
            training.examples,
            *executables.begin_epoch(step),
            0,
            1,
        )
        states.append(state)
    moved = [
        max(
            float(jnp.abs(a - b).max())
            for a, b in zip(*(jax.tree.leaves(s.params) for s in pair), strict=True)
        )
        for pair in itertools.pairwise(states)
    ]
    # Adam moves what it moves most by about the rate: 1, 3/4 and 1/4 of it
    np.testing.assert_allclose(moved, [0.01, 0.0075, 0.0025], rtol=0.35)


def test_metrics_file_has_a_line_an_epoch(random_dataset, tmp_path):
    outcome = fit_run(small_config(epochs=3), random_dataset, tmp_path / "run")
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines == outcome.history and [line["epoch"] for line in lines] == [1, 2, 3]


def test_the_best_epoch_is_what_is_scored_on_the_test_set(random_dataset, tmp_path, monkeypatch):
    # Given validation metrics that are best in epoch 2 of 4
    figures = iter([0.1, 0.9, 0.3, 0.9])

    def faked(ranks):
        metrics = summary(ranks)
        return metrics | {"sampled": metrics["sampled"] | {"ndcg@10": next(figures)}}

    asked = small_config(epochs=4, learning_rate=0.1)
    executables = compiled([asked], random_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "summary", faked)
        outcome = fit_run(asked, random_dataset, tmp_path / "run", executables)
    # Then the first such epoch is chosen and its parameters, not the last ones, are scored on the
    # test set
    assert outcome.best_epoch == 2
    assert outcome.validation["sampled"]["ndcg@10"] == 0.9
    fit_run(small_config(epochs=2, learning_rate=0.1), random_dataset, tmp_path / "two")
    two = last_state(executables, tmp_path / "two")
    assert int(two.opt_state.count[0]) == 2 * executables.program.training.num_steps
    params = executables.program.mesh.unstack(two.params, 0)
    expected = executables.evaluate(params, "test")
    jax.tree.map(np.testing.assert_array_equal, outcome.test_ranks, expected)


def test_patience_stops_a_run_that_gets_no_better(random_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "is_better", lambda line, run, select_by: not run.best_epoch)
    outcome = fit_run(small_config(epochs=9, patience=2), random_dataset, tmp_path / "run")
    assert len(outcome.history) == 3


def test_the_first_of_equal_epochs_is_the_best():
    lines = [{"validation": {"full": {"hit@5": value}}} for value in (0.1, 0.3, 0.3, 0.2)]
    run = RunProgress()
    for epoch, line in enumerate(lines, 1):
        if is_better(line, run, "full/hit@5"):
            run.best_epoch = epoch
        run.history.append(line)
    assert run.best_epoch == 2


@pytest.mark.parametrize("broken", ["loss", "scores"])
def test_a_run_that_diverges_stops_and_names_the_step(
    random_dataset, tmp_path, broken, monkeypatch
):
    # Given a run of four steps an epoch whose second epoch ends in NaN: the loss of step 3, or
    # scores alone
    asked = small_config(epochs=3)
    executables = compiled([asked], random_dataset)
    run_steps = executables.run_steps
    num_steps = executables.program.training.num_steps
    place = {"loss": "epoch 2 at step 3", "scores": "NaN after epoch 2"}[broken]

    def poisoned(state, sums, *rest):
        state, sums = run_steps(state, sums, *rest)
        if int(state.opt_state.count[0]) == 2 * num_steps:
            state = state._replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
            sums = sums._replace(bad_step=jnp.array([2])) if broken == "loss" else sums
        return state, sums

    monkeypatch.setattr(executables, "run_steps", poisoned)
    # Then it stops there and says which checkpoint is good
    message = f"{place}.*last finite checkpoint is that of epoch 1"
    with pytest.raises(DivergedError, match=message):
        fit_run(asked, random_dataset, tmp_path / "run", executables)


def test_a_loss_that_is_not_finite_is_found_in_the_compiled_steps(random_dataset, tmp_path):
    # Given scores that overflow within a few steps
    asked = small_config({"initializer_range": 1e18}, learning_rate=1e30, epochs=5, batch_size=8)
    with pytest.raises(DivergedError, match="epoch 1"):
        fit_run(asked, random_dataset, tmp_path / "run")


def test_checkpoints_of_another_shape_are_refused(random_dataset, tmp_path):
    fit_run(small_config(epochs=1), random_dataset, tmp_path / "run")
    training = make_program([small_config({"dim": 16})], random_dataset).training
    last = Checkpoints(RunFolder(tmp_path / "run").last)
    with pytest.raises(UserError, match=r"checkpoint .* does not fit the settings: .* expected"):
        last.load((training.first_state, training.first_sums))


def test_select_by_is_what_picks(random_dataset, tmp_path):
    asked = dataclasses.replace(small_config(epochs=4), eval=EvalConfig(select_by="full/hit@20"))
    outcome = fit_run(asked, random_dataset, tmp_path / "run")
    figures = [line["validation"]["full"]["hit@20"] for line in outcome.history]
    assert outcome.best_epoch == int(np.argmax(figures)) + 1


RATES = [{"model": {"initializer_range": 0.1}}, {"seed": 3}, {"learning_rate": 0.003}]


RANGES = [{"model": {"initializer_range": r}} for r in (0.05, 0.1, 0.2, 0.5)]


EVERY = {"targets": "every", "batch_size": 8}


@pytest.mark.parametrize(
    "backend, variants, devices, settings",
    [
        ("cpu", RATES, 1, {}),
        ("gpu", RATES, 1, {}),
        ("cpu", RANGES, 2, EVERY),
    ],
    ids=["mixed, in turn", "mixed, side by side", "ranges, in turn"],
)
def test_stacked_runs_yield_what_each_yields_alone(
    random_dataset, tmp_path, variants, devices, settings, backend, monkeypatch
):
    monkeypatch.setattr(
        jax, "local_device_count", lambda: 2
    )  # so that each has several of the four runs
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    configs = [small_config(**{"epochs": 2} | settings | variant) for variant in variants]
    assert len({program(c) for c in configs}) == 1
    executables = compile_runs(configs, random_dataset)
    in_turn = executables.program.training.runs_in_turn > 1
    assert executables.program.mesh.size == devices and in_turn == (backend == "cpu")
    together = fit_runs(configs, random_dataset, tmp_path / "group", executables)
    monkeypatch.undo()
    for r, (config, outcome) in enumerate(zip(configs, together, strict=True)):
        alone = fit_run(config, random_dataset, tmp_path / f"alone{r}")
        for a, b in zip(outcome.history, alone.history, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            assert a["validation"]["sampled"]["ndcg@10"] == pytest.approx(
                b["validation"]["sampled"]["ndcg@10"], abs=0.02
            )
    losses = [outcome.history[-1]["loss"] for outcome in together]
    assert len({round(loss, 6) for loss in losses}) == len(losses), "the runs do differ"


def test_a_stacked_run_that_diverges_is_marked_and_the_others_go_on(random_dataset, tmp_path):
    configs = [small_config(epochs=2), small_config(epochs=2, learning_rate=1e30)]
    good, bad = fit_runs(configs, random_dataset, tmp_path / "group")
    assert len(good.history) == 2 and np.isfinite(good.history[-1]["loss"])
    assert isinstance(bad, DivergedError) and "epoch" in str(bad)


def test_device_memory_does_not_grow_from_epoch_to_epoch(random_dataset, tmp_path):
    bytes_held = []

    def log(line):  # once an epoch
        gc.collect()
        bytes_held.append(sum(x.nbytes for x in jax.live_arrays()))

    asked = small_config(epochs=8)
    fit_run(asked, random_dataset, tmp_path / "run", log=log)
    assert len(bytes_held) == 8
    assert max(bytes_held[4:]) <= max(bytes_held[:4]), (
        "saves under way hold some at first; then it stays"
    )
