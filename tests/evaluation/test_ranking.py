"""Ranks against brute force in Python; ties, repeats of seen items, NaN; catalogues in tiles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_dataset

from ttt4rec_jax import models
from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.clicks import device_clicks
from ttt4rec_jax.evaluation import best, counting, evaluator, ranking
from ttt4rec_jax.metrics import PROTOCOLS


class Table(nnx.Module):
    """Scores an item by a table [last click, item]; few distinct entries make many ties."""

    def __init__(self, table):
        self.table = nnx.Param(jnp.asarray(table, jnp.float32))

    def encode(self, history, length, every=False, key=None):
        last = jnp.take_along_axis(history, length[:, None] - 1, 1)[:, 0]
        return jax.nn.one_hot(last, len(self.table[...]))[:, None]

    def item_vectors(self, items):
        return self.table[...].T[items]


class Vectors(nnx.Module):
    """Scores by given vectors: of users by their last click, of items."""

    def __init__(self, user_vectors, item_vectors):
        self.user_vectors = nnx.Param(jnp.asarray(user_vectors))
        self.vectors = nnx.Param(jnp.asarray(item_vectors))

    def encode(self, history, length, every=False, key=None):
        return self.user_vectors[...][jnp.take_along_axis(history, length[:, None] - 1, 1)]

    def item_vectors(self, items):
        return self.vectors[...][items]


def in_tiles(monkeypatch, size):
    """Have several groups, batches and tiles of the catalogue, with padding, and several pieces."""
    monkeypatch.setattr(evaluator, "lengths_read", lambda max_len: (1, 2, max_len))
    monkeypatch.setattr(ranking, "TILE", size)
    monkeypatch.setattr(ranking, "SEEN_AT_ONCE", 3)
    monkeypatch.setattr(counting, "NEGATIVES_AT_ONCE", 2)
    monkeypatch.setattr(best, "TILES_AT_ONCE", 2)


def evaluator_of(dataset, model, k=0):
    graphdef, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    clicks = device_clicks(dataset)
    protocols = dict.fromkeys(("validation", "test"), PROTOCOLS)
    rank = evaluator.Evaluator(graphdef, params, dataset, clicks, 3, protocols, list_length=k)
    return rank, params


class Pairs(nnx.Module):
    """The same as a model that scores pairs of history and candidate."""

    __init__ = Table.__init__

    def score(self, history, length, candidates, key=None):
        last = jnp.take_along_axis(history, length[:, None] - 1, 1)
        return self.table[...][last, candidates]


@pytest.mark.parametrize("kind", [Table, Pairs])
def test_ranks_and_lists_equal_brute_force(random_dataset, kind, monkeypatch):
    in_tiles(monkeypatch, 7)
    rank, _ = evaluator_of(random_dataset, kind(np.zeros((31, 31))), k=26)
    for levels, name in itertools.product((3, 1000), ("validation", "test")):
        table = np.random.default_rng(0).integers(0, levels, (31, 31))
        params = {"table": jnp.asarray(table, jnp.float32)}
        ranks = rank(params, name)
        stacked = jax.tree.map(lambda x: x[None], params)
        ((again, lists),) = rank.of_runs_with_lists(stacked, name)
        jax.tree.map(np.testing.assert_array_equal, again, ranks)
        targets = getattr(random_dataset, name)
        for row, (position, user) in enumerate(zip(targets.positions, targets.users, strict=True)):
            history = random_dataset.items[random_dataset.offsets[user] : position]
            scores = table[history[-1]]
            target = random_dataset.items[position]
            catalogue = set(range(1, 31)) - set(history.tolist()) - {target}
            in_order = sorted({*catalogue, target}, key=lambda item: (-scores[item], item))
            assert lists[row].tolist() == (in_order + [0] * 26)[:26]
            for protocol, others in (
                ("sampled", targets.negatives[row].tolist()),
                ("full", sorted(catalogue)),
                ("unfiltered", sorted(set(range(1, 31)) - {target})),
            ):
                expected = (
                    sum(scores[i] > scores[target] for i in others),
                    sum(scores[i] == scores[target] for i in others),
                    len(others),
                )
                assert tuple(x[row] for x in ranks[protocol]) == expected


def test_a_single_nan_is_an_error_whichever_item_has_it(random_dataset, monkeypatch):
    in_tiles(monkeypatch, 7)
    rank, _ = evaluator_of(random_dataset, Table(np.zeros((31, 31))))
    for item, name in itertools.product((1, 5, 30), ("validation", "test")):
        table = np.zeros((31, 31), np.float32)
        table[:, item] = np.nan
        with pytest.raises(evaluator.NonFiniteScoresError):
            rank({"table": jnp.asarray(table)}, name)


def test_nothing_is_compiled_before_it_is_asked_for(random_dataset, monkeypatch):
    lowered = []
    monkeypatch.setattr(evaluator.Evaluator, "_compile", lambda *args: lowered.append(args))
    rank, _ = evaluator_of(random_dataset, Table(np.zeros((31, 31))))
    assert not lowered
    assert rank.compile() is rank and rank.compile() is rank and len(lowered) == 1


def test_popularity_counts_training_clicks_alone(random_dataset):
    model = models.build(
        ModelConfig(model="popularity"),
        random_dataset.num_items,
        0,
        training=models.TrainingClicks.from_dataset(random_dataset),
    )
    counts = np.zeros(31)
    for start, end in zip(random_dataset.offsets[:-1], random_dataset.train_ends, strict=True):
        np.add.at(counts, random_dataset.items[start:end], 1)
    np.testing.assert_array_equal(model.item_vectors(jnp.arange(31))[:, 0], counts)


def test_infinite_scores_are_no_nan_and_padding_never_counts(random_dataset):
    # Given scores of -inf throughout, as careless padding of the last tile would have too
    class Worst(Table):
        def encode(self, history, length, every=False, key=None):
            return jnp.ones((len(history), 1, 1))

        def item_vectors(self, items):
            return jnp.full((*items.shape, 1), -jnp.inf)

    rank, params = evaluator_of(random_dataset, Worst(np.zeros((31, 31))))
    for ranks in rank(params, "test").values():
        np.testing.assert_array_equal(ranks.greater, 0)
        np.testing.assert_array_equal(ranks.ties, ranks.others)


@pytest.mark.parametrize("num_items", [700, 1024])
def test_a_constant_scorer_ties_everywhere_though_its_vectors_round(num_items):
    # Given one random vector for all items, random ones for users, and counts that no vector width
    # divides
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, num_items + 1, rng.integers(3, 70)).tolist() for _ in range(523)]
    dataset = make_dataset(sequences, num_items, num_negatives=99)
    vectors = rng.normal(size=(num_items + 1, 50)).astype(np.float32)
    rank, params = evaluator_of(
        dataset, Vectors(vectors, np.broadcast_to(vectors[:1], vectors.shape))
    )
    # Then every other candidate ties, in the last bit
    for ranks in rank(params, "test").values():
        np.testing.assert_array_equal(ranks.greater, 0)
        np.testing.assert_array_equal(ranks.ties, ranks.others)


def test_ranks_do_not_depend_on_how_the_catalogue_is_cut(random_dataset, monkeypatch):
    # Given vectors of small whole numbers, whose products are exact in any order
    vectors = np.random.default_rng(0).integers(-3, 4, (2, 31, 6)).astype(np.float32)
    found = []
    for size in (512, 30, 7, 1):
        in_tiles(monkeypatch, size)
        rank, params = evaluator_of(random_dataset, Vectors(*vectors))
        found.append(rank(params, "test"))
    assert found[0]["full"].ties.any()
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, found[0])


def test_counts_of_every_kind_up_to_a_tile():
    tile = ranking.TILE
    scores = jnp.stack([jnp.full(tile, x) for x in (2.0, 1.0, 0.0, jnp.nan)])
    greater, ties, nans = ranking.count_scores(scores, jnp.ones(4), True)
    np.testing.assert_array_equal(
        jnp.stack([greater, ties, nans], 1), [[tile, 0, 0], [0, tile, 0], [0, 0, 0], [0, 0, tile]]
    )


def test_memory_is_the_item_vectors_and_not_users_x_items():
    # Given 520 users and 20,000 items: the scores of one batch would be 41 MB
    rng = np.random.default_rng(0)
    num_items = 20_000
    dataset = make_dataset(rng.integers(1, num_items + 1, (520, 5)).tolist(), num_items)
    rank, _ = evaluator_of(dataset, Vectors(*np.zeros((2, num_items + 1, 8), np.float32)))
    (compiled,) = rank.compiled.values()
    memory = compiled.memory_analysis()
    item_vectors = 4 * 8 * num_items
    assert memory.temp_size_in_bytes < 2 * item_vectors + 8e6
