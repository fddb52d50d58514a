"""Ranks against a brute-force twin in Python; ties, repeats of seen items, NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax import data, evaluate, models
from ttt4rec_jax.config import ModelConfig


class Table(nnx.Module):
    """Scores an item by an entry of a table [last click, item]: with few distinct entries there are many ties."""

    def __init__(self, table):
        self.table = nnx.Param(jnp.asarray(table, jnp.float32))

    def encode(self, history, length, every=False, key=None):
        last = jnp.take_along_axis(history, length[:, None] - 1, 1)[:, 0]
        return jax.nn.one_hot(last, len(self.table[...]))

    def item_vectors(self, items):
        return self.table[...].T[items]


def evaluator_of(dataset, model):
    graphdef, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    return evaluate.Evaluator(graphdef, params, dataset, data.device_clicks(dataset), 3), params


@pytest.mark.parametrize("name", ["validation", "test"])
@pytest.mark.parametrize("levels", [3, 1000])
def test_ranks_equal_brute_force(random_dataset, name, levels, monkeypatch):
    monkeypatch.setattr(evaluate, "SCORES_AT_ONCE", 7 * 31)  # several batches, the last one filled up
    table = np.random.default_rng(0).integers(0, levels, (31, 31))
    evaluator, params = evaluator_of(random_dataset, Table(table))
    ranks, targets = evaluator(params, name), getattr(random_dataset, name)
    for row, (position, user) in enumerate(zip(targets.positions, targets.users, strict=True)):
        history = random_dataset.items[random_dataset.offsets[user] : position]
        scores, target = table[history[-1]], random_dataset.items[position]
        catalogue = set(range(1, 31)) - set(history.tolist()) - {target}
        for protocol, others in (("sampled", targets.negatives[row].tolist()), ("full", sorted(catalogue))):
            expected = (
                sum(scores[i] > scores[target] for i in others),
                sum(scores[i] == scores[target] for i in others),
                len(others),
            )
            assert tuple(x[row] for x in ranks[protocol]) == expected


def test_a_nan_score_is_an_error(random_dataset):
    table = np.zeros((31, 31))
    table[:, 5] = np.nan
    evaluator, params = evaluator_of(random_dataset, Table(table))
    with pytest.raises(evaluate.NonFiniteScoresError):
        evaluator(params, "test")


def test_popularity_counts_training_clicks_alone(random_dataset):
    model = models.build(ModelConfig(model="popularity"), random_dataset, 0)
    counts = np.zeros(31)
    for start, end in zip(random_dataset.offsets[:-1], random_dataset.train_ends, strict=True):
        np.add.at(counts, random_dataset.items[start:end], 1)
    np.testing.assert_array_equal(model.item_vectors(jnp.arange(31))[:, 0], counts)
