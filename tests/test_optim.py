"""Sparse embedding updates against dense Adam, and against lazy Adam written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_dataset

from data_prep.settings import UserError
from ttt4rec_jax import models
from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data import Batch
from ttt4rec_jax.optim import optimizer, sparse_rows
from ttt4rec_jax.train import Trainer
from ttt4rec_jax.train_step import TrainState, make_train_step

RATE, DECAY = 0.1, 0.05
ITEMS = 9


def batch_of(history, target, negatives):
    history, target, negatives = (jnp.asarray(x, jnp.int32) for x in (history, target, negatives))
    return Batch(history, (history > 0).sum(1), target, jnp.ones(target.shape), negatives)


def random_batch(rng, size, items, length=4):
    """Histories of different lengths, targets and negatives among the given items."""
    histories = rng.choice(items, (size, length)) * (np.arange(length) < rng.integers(1, length + 1, (size, 1)))
    return batch_of(histories, rng.choice(items, size), rng.choice(items, (size, 3)))


def state_of(tx, params):
    return TrainState(params, tx.init(params), jnp.asarray(RATE))


def toy_step(tx):
    """A train step whose loss is quadratic in what is looked up, so that its gradient can be written down."""

    def step(state, batch, key):
        def loss_of(params):
            used = jnp.concatenate([batch.history.reshape(-1), batch.target.reshape(-1), batch.negatives.reshape(-1)])
            return 0.5 * (jnp.square(params["embedding"][used]).sum(-1) * (used > 0)).sum() + params["bias"]

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        directions, opt_state = tx.update(grads, state.opt_state, state.params)
        return TrainState(
            jax.tree.map(lambda p, d: p - RATE * d, state.params, directions), opt_state, state.learning_rate
        ), loss

    return step


@pytest.mark.parametrize("decay", [0.0, DECAY], ids=["adam", "adamw"])
def test_sparse_rows_are_lazy_adam(decay):
    # Given steps on different items, many of them several times
    tx = optimizer(TrainConfig(weight_decay=decay))
    rng = np.random.default_rng(0)
    table = rng.normal(size=(ITEMS + 1, 3)).astype(np.float32)
    state, step = state_of(tx, {"embedding": jnp.asarray(table), "bias": jnp.zeros(())}), jax.jit(sparse_rows(toy_step(tx)))
    mean, square = np.zeros((2, ITEMS + 1, 3))
    table, bias = table.astype(np.float64), 0.0
    for t, items in enumerate([[1, 2, 3], [3, 4], [5], [1, 5, 9], [2, 3]], 1):
        batch = random_batch(rng, 6, items)
        state, _ = step(state, batch, None)
        # When each row of the batch moves by the sum of its gradients, in numpy, and no other row is looked at
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


@pytest.fixture(scope="module")
def small():
    """A data set of as many items as the tests here count on."""
    return make_dataset([[1, 2, 3, 4], [5, 6, 7, 8, 9]], ITEMS, num_negatives=2)


def steps_of(dataset, model, **train):
    """The training step as it is and as --sparse_embeddings makes it, and the state to begin with."""
    shape = {"dim": 8, "max_len": 4, "mini_batch_size": 2} if model == "ttt4rec" else {"dim": 8, "max_len": 4}
    config = ModelConfig(model=model, **shape)
    graphdef, params = models.split(config, dataset, np.zeros(1, np.uint32), *np.full((2, 1), 0.3, np.float32))
    params = jax.tree.map(lambda x: x[0], params)
    found = []
    for sparse in (False, True):
        settings = Config(model=config, train=TrainConfig(sparse_embeddings=sparse, **train))
        tx = optimizer(settings.train)
        found.append(jax.jit(make_train_step(graphdef, tx, settings, dataset.num_items)))
    return *found, state_of(tx, params)._replace(learning_rate=jnp.asarray(0.01))


# sampled_softmax gives the tower's bias a gradient of rounding errors alone, which Adam blows up: a model without a tower
@pytest.mark.parametrize("model, loss", [("ttt4rec", "bce"), ("ttt4rec", "gbce"), ("sasrec", "sampled_softmax")])
def test_batches_that_hold_every_item_train_as_dense_adam_does(small, model, loss):
    dense, sparse, first = steps_of(small, model, loss=loss, weight_decay=DECAY)
    rng, expected, got = np.random.default_rng(1), first, first
    for _ in range(6):
        batch = random_batch(rng, 40, np.arange(1, ITEMS + 1))
        if loss == "sampled_softmax":
            batch = batch._replace(negatives=jnp.asarray(rng.integers(1, ITEMS + 1, 12), jnp.int32))
        assert set(range(ITEMS + 1)) == {int(i) for x in (batch.history, batch.target) for i in x.reshape(-1)}
        (expected, a), (got, b) = dense(expected, batch, None), sparse(got, batch, None)
        np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5), got, expected)


def test_rows_outside_the_batch_keep_value_and_moments_to_the_bit(small):
    # Given moments that are not zero, so that dense Adam would move every row
    dense, sparse, state = steps_of(small, "ttt4rec", weight_decay=DECAY)
    rng = np.random.default_rng(2)
    state, _ = dense(state, random_batch(rng, 40, np.arange(1, ITEMS + 1)), None)
    before = jax.tree.map(np.asarray, state)
    # When a step holds items 2 and 5 alone
    after, _ = sparse(state, random_batch(rng, 8, [2, 5]), None)
    moments = [(s.opt_state[0].mu["embedding"], s.opt_state[0].nu["embedding"]) for s in (before, after)]
    for was, now in [(before.params["embedding"], after.params["embedding"]), *zip(*moments, strict=True)]:
        others = [i for i in range(1, ITEMS + 1) if i not in (2, 5)]
        np.testing.assert_array_equal(np.asarray(now)[others], was[others])
        assert (np.asarray(now)[[2, 5]] != was[[2, 5]]).any(1).all()
    moved, _ = dense(state, random_batch(rng, 8, [2, 5]), None)
    assert (np.asarray(moved.params["embedding"])[1:] != before.params["embedding"][1:]).any(1).all()


@pytest.mark.parametrize("runs", [1, 3], ids=["one run", "stacked"])  # three: no two devices divide them
def test_a_step_copies_no_table(runs):
    # Given tables that dwarf all else, and histories of several buckets
    num_items, rng = 100_000, np.random.default_rng(0)
    dataset = make_dataset([rng.integers(1, num_items + 1, n).tolist() for n in (3, 4, 5, 9, 14, 20)], num_items, 1)
    train = {"targets": "every", "batch_size": 2, "length_buckets": 3, "sparse_embeddings": True}
    configs = [
        Config(
            model=ModelConfig(model="sasrec", dim=16, max_len=20, ffn=False),
            train=TrainConfig(learning_rate=rate, **train),
        )
        for rate in (0.01, 0.02, 0.03)[:runs]
    ]
    trainer = Trainer(configs, dataset)
    assert len(trainer.buckets) > 1
    tables = 0 if runs == 1 else 3  # runs that train in turn take theirs out, and put them back when their turn is over
    assert trainer.run_steps.memory_analysis().temp_size_in_bytes < 4 * 16 * num_items * (tables + 0.5)
    # Then it runs in the buffers that it is given
    where = trainer.first_state.params["embedding"].unsafe_buffer_pointer()
    state, _ = trainer.run_steps(
        trainer.first_state, trainer.first_sums, trainer.clicks, trainer.examples, *trainer.begin_epoch(0), 0, trainer.steps
    )
    assert state.params["embedding"].unsafe_buffer_pointer() == where


def test_what_sparse_embeddings_cannot_do_is_refused():
    with pytest.raises(UserError, match=r"--sparse_embeddings.*--loss=softmax"):
        TrainConfig(sparse_embeddings=True, loss="softmax")
    with pytest.raises(UserError, match=r"--sparse_embeddings.*--model=popularity"):
        Config(model=ModelConfig(model="popularity"), train=TrainConfig(sparse_embeddings=True))
    tx = optimizer(TrainConfig())
    with pytest.raises(UserError, match=r"--sparse_embeddings.*'embedding'"):
        sparse_rows(toy_step(tx))(state_of(tx, {"other": jnp.zeros(3)}), batch_of([[1]], [1], [[2]]), None)
