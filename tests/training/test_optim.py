"""Sparse embedding updates against dense Adam, and against lazy Adam written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    DECAY,
    NUM_TOY_ITEMS,
    RATE,
    batch_of,
    make_dataset,
    random_batch,
    state_of,
    steps_of,
    toy_step,
)

from data_prep.settings import UserError
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.training.compile import compile_runs
from ttt4rec_jax.training.optim import optimizer, sparse_rows


@pytest.mark.parametrize("decay", [0.0, DECAY], ids=["adam", "adamw"])
def test_sparse_rows_are_lazy_adam(decay):
    # Given steps on different items, many of them several times
    tx = optimizer(TrainConfig(weight_decay=decay))
    rng = np.random.default_rng(0)
    table = rng.normal(size=(NUM_TOY_ITEMS + 1, 3)).astype(np.float32)
    state = state_of(tx, {"embedding": jnp.asarray(table), "bias": jnp.zeros(())})
    step = jax.jit(sparse_rows(toy_step(tx)))
    mean, square = np.zeros((2, NUM_TOY_ITEMS + 1, 3))
    table = table.astype(np.float64)
    bias = 0.0
    for t, items in enumerate([[1, 2, 3], [3, 4], [5], [1, 5, 9], [2, 3]], 1):
        batch = random_batch(rng, 6, items)
        state, _ = step(state, batch, None)
        # When each row of the batch moves by the sum of its gradients, in numpy, and no other row
        # is looked at
        used = np.concatenate([np.ravel(x) for x in (batch.history, batch.target, batch.negatives)])
        for row in {0, *used.tolist()}:
            gradient = table[row] * (used == row).sum() * (row > 0)
            mean[row] = 0.9 * mean[row] + 0.1 * gradient
            square[row] = 0.999 * square[row] + 0.001 * gradient**2
            direction = mean[row] / (1 - 0.9**t) / (np.sqrt(square[row] / (1 - 0.999**t)) + 1e-8)
            table[row] -= RATE * (direction + decay * table[row])
        # Then the rows agree, and the other parameters have taken every step
        np.testing.assert_allclose(state.params["embedding"], table, rtol=1e-5, atol=1e-6)
        bias -= RATE * (1 + decay * bias)
        np.testing.assert_allclose(state.params["bias"], bias, rtol=1e-5)


# sampled_softmax gives the tower's bias a gradient of rounding errors alone, which Adam blows up: a
# model without a tower
@pytest.mark.parametrize("model, loss", [("ttt4rec", "bce"), ("sasrec", "sampled_softmax")])
def test_batches_that_hold_every_item_train_as_dense_adam_does(model, loss):
    dense, sparse, first = steps_of(model, loss=loss, weight_decay=DECAY)
    rng = np.random.default_rng(1)
    expected = first
    got = first
    for _ in range(6):
        batch = random_batch(rng, 40, np.arange(1, NUM_TOY_ITEMS + 1))
        if loss == "sampled_softmax":
            batch = batch._replace(
                negatives=jnp.asarray(rng.integers(1, NUM_TOY_ITEMS + 1, 12), jnp.int32)
            )
        assert set(range(NUM_TOY_ITEMS + 1)) == {
            int(i) for x in (batch.history, batch.target) for i in x.reshape(-1)
        }
        (expected, a) = dense(expected, batch, None)
        (got, b) = sparse(got, batch, None)
        np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5), got, expected)


def test_rows_outside_the_batch_keep_value_and_moments_to_the_bit():
    # Given moments that are not zero, so that dense Adam would move every row
    dense, sparse, state = steps_of("ttt4rec", loss="bce", weight_decay=DECAY)
    rng = np.random.default_rng(2)
    state, _ = dense(state, random_batch(rng, 40, np.arange(1, NUM_TOY_ITEMS + 1)), None)
    before = jax.tree.map(np.asarray, state)
    # When a step holds items 2 and 5 alone
    after, _ = sparse(state, random_batch(rng, 40, [2, 5]), None)
    moments = [
        (s.opt_state[0].mu["embedding"], s.opt_state[0].nu["embedding"]) for s in (before, after)
    ]
    for was, now in [
        (before.params["embedding"], after.params["embedding"]),
        *zip(*moments, strict=True),
    ]:
        others = [i for i in range(1, NUM_TOY_ITEMS + 1) if i not in (2, 5)]
        np.testing.assert_array_equal(np.asarray(now)[others], was[others])
        assert (np.asarray(now)[[2, 5]] != was[[2, 5]]).any(1).all()
    moved, _ = dense(state, random_batch(rng, 40, [2, 5]), None)
    assert (
        (np.asarray(moved.params["embedding"])[1:] != before.params["embedding"][1:]).any(1).all()
    )


# three: no two devices divide them
@pytest.mark.parametrize("runs", [1, 3], ids=["one run", "stacked"])
def test_a_step_copies_no_table(runs):
    # Given tables that dwarf all else, and histories of several buckets
    num_items = 100_000
    rng = np.random.default_rng(0)
    dataset = make_dataset(
        [rng.integers(1, num_items + 1, n).tolist() for n in (3, 4, 5, 9, 14, 20)], num_items, 1
    )
    train = {"targets": "every", "batch_size": 2, "length_buckets": 2, "sparse_embeddings": True}
    configs = [
        Config(
            model=ModelConfig(model="sasrec", dim=16, max_len=20, ffn="none"),
            train=TrainConfig(learning_rate=rate, **train),
        )
        for rate in (0.01, 0.02, 0.03)[:runs]
    ]
    executables = compile_runs(configs, dataset)
    training = executables.program.training
    assert len(training.buckets) > 1
    # runs that train in turn take their tables out, and put them back when their turn is over
    tables = 0 if runs == 1 else 3
    temporary = executables.run_steps.memory_analysis().temp_size_in_bytes
    assert temporary < 4 * 16 * num_items * (tables + 0.5)
    # Then it runs in the buffers that it is given
    where = training.first_state.params["embedding"].unsafe_buffer_pointer()
    state, _ = executables.run_steps(
        training.first_state,
        training.first_sums,
        executables.program.clicks,
        training.examples,
        *executables.begin_epoch(0),
        0,
        training.num_steps,
    )
    assert state.params["embedding"].unsafe_buffer_pointer() == where


def test_what_sparse_embeddings_cannot_do_is_refused():
    with pytest.raises(UserError, match=r"--sparse_embeddings.*--loss=softmax"):
        TrainConfig(sparse_embeddings=True, loss="softmax")
    with pytest.raises(UserError, match=r"--sparse_embeddings.*--model=popularity"):
        Config(model=ModelConfig(model="popularity"), train=TrainConfig(sparse_embeddings=True))
    tx = optimizer(TrainConfig())
    with pytest.raises(UserError, match=r"--sparse_embeddings.*'embedding'"):
        sparse_rows(toy_step(tx))(
            state_of(tx, {"other": jnp.zeros(3)}), batch_of([[1]], [1], [[2]]), None
        )
