"""Batches against a brute-force reading of the clicks; negatives; each target once an epoch."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_dataset

from ttt4rec_jax.config import Config, ModelConfig, TrainConfig
from ttt4rec_jax.data import batches
from ttt4rec_jax.data.clicks import device_clicks, histories
from ttt4rec_jax.data.examples import (
    Bucket,
    bucket_lengths,
    epoch_order,
    step_buckets,
    training_examples,
    training_histories,
)
from ttt4rec_jax.training import objective

MAX_LEN = 4

make_batch = jax.jit(batches.make_batch, static_argnums=(4, 5, 6))


def config(**train):
    return Config(model=ModelConfig(max_len=MAX_LEN), train=TrainConfig(batch_size=8, **train))


def training_clicks(dataset):
    return [
        dataset.items[a:b].tolist()
        for a, b in zip(dataset.offsets[:-1], dataset.train_ends, strict=True)
    ]


def epoch_of(dataset, config):
    """All batches of epoch 0, as numpy."""
    clicks = device_clicks(dataset)
    examples, buckets = training_examples(dataset, config)
    of = step_buckets(0, buckets)
    order = epoch_order(jax.random.key(0), of, buckets)
    keys = jax.random.split(jax.random.key(1), len(order))
    made = []
    for bucket, rows, key in zip(of, order, keys, strict=True):
        size = buckets[bucket].batch_size
        length = buckets[bucket].length
        batch = make_batch(clicks, examples, rows[:size], key, config, dataset.num_items, length)
        made.append(jax.tree.map(np.asarray, batch))
    return made


@pytest.mark.parametrize("targets, length_buckets", [("last", 1), ("every", 1), ("every", 3)])
def test_an_epoch_trains_each_click_but_a_users_first_once(random_dataset, targets, length_buckets):
    expected = collections.Counter()
    found = collections.Counter()
    for clicks in training_clicks(random_dataset):
        for t in range(1, len(clicks)):
            if targets == "last":
                history = clicks[max(0, t - MAX_LEN) : t]
            else:  # runs of MAX_LEN targets, cut from the end
                first = len(clicks) - 1 - MAX_LEN * -(-(len(clicks) - t) // MAX_LEN)
                history = clicks[max(0, first) : t]
            expected[(*history, clicks[t])] += 1
    for batch in epoch_of(random_dataset, config(targets=targets, length_buckets=length_buckets)):
        for row in range(len(batch.history)):
            history = batch.history[row].tolist()
            length = batch.length[row]
            assert not any(history[length:]), "padding is 0, at the right"
            pairs = [(length, batch.target[row], batch.weight[row])]
            if targets == "every":
                pairs = [
                    (t + 1, batch.target[row, t], batch.weight[row, t])
                    for t in range(len(batch.target[row]))
                ]
            for end, target, weight in pairs:
                assert weight in (0, 1)
                if weight:
                    found[(*history[:end], int(target))] += 1
    assert found == expected


@pytest.mark.parametrize("targets", ["last", "every"])
def test_negatives_are_no_training_clicks_but_may_be_held_out_ones(random_dataset, targets):
    users_of = {}
    for clicks in training_clicks(random_dataset):
        for t in range(1, len(clicks)):
            users_of.setdefault((clicks[t - 1], clicks[t]), []).append(set(clicks))
    for batch in epoch_of(random_dataset, config(targets=targets, num_negatives=6)):
        for row in np.flatnonzero(batch.weight.reshape(len(batch.weight), -1).any(1)):
            if targets == "last":
                cases = [
                    (
                        batch.history[row, batch.length[row] - 1],
                        batch.target[row],
                        batch.negatives[row],
                    )
                ]
            else:
                cases = [
                    c
                    for c, w in zip(
                        zip(
                            batch.history[row], batch.target[row], batch.negatives[row], strict=True
                        ),
                        batch.weight[row],
                        strict=True,
                    )
                    if w
                ]
            for before, target, negatives in cases:
                assert ((negatives >= 1) & (negatives <= random_dataset.num_items)).all()
                assert any(
                    not known & set(negatives.tolist())
                    for known in users_of[(int(before), int(target))]
                )


def test_negatives_are_uniform_over_all_other_items(random_dataset):
    clicks = device_clicks(random_dataset)
    user = int(np.argmax(np.diff(random_dataset.offsets)))
    known = set(training_clicks(random_dataset)[user])
    drawn = np.asarray(
        batches.sample_negatives(
            jax.random.key(0), clicks, user, (60_000,), random_dataset.num_items
        )
    )
    free = sorted(set(range(1, random_dataset.num_items + 1)) - known)
    held_out = (
        set(
            random_dataset.items[
                random_dataset.train_ends[user] : random_dataset.offsets[user + 1]
            ].tolist()
        )
        - known
    )
    assert held_out <= set(drawn.tolist()), "to avoid the held-out items would leak them"
    counts = np.array([np.sum(drawn == item) for item in free])
    assert counts.sum() == len(drawn)
    expected = len(drawn) / len(free)
    assert ((counts - expected) ** 2 / expected).sum() < 3 * len(free), "chi-squared"


def test_histories_are_the_last_clicks_before_the_target(random_dataset):
    clicks = device_clicks(random_dataset)
    test = random_dataset.test
    history, length = histories(
        clicks, jnp.asarray(test.positions), jnp.asarray(test.users), MAX_LEN
    )
    for row, (position, user) in enumerate(zip(test.positions, test.users, strict=True)):
        expected = random_dataset.items[random_dataset.offsets[user] : position][-MAX_LEN:].tolist()
        assert history[row, : length[row]].tolist() == expected
        assert not history[row, length[row] :].any()


def test_epochs_are_shuffled_differently_and_reproducibly():
    buckets = Bucket(4, 0, 5, 8), Bucket(8, 5, 21, 4)
    ofs = [step_buckets(epoch, buckets) for epoch in (0, 1, 0)]
    keys = [jax.random.fold_in(jax.random.key(0), epoch) for epoch in (0, 1, 0)]
    orders = [
        (of, np.asarray(epoch_order(key, of, buckets))) for key, of in zip(keys, ofs, strict=True)
    ]
    for of, order in orders:
        assert sorted(e for e in order.reshape(-1) if e < 21) == [*range(21)], "every example once"
        for bucket, rows in zip(of, order, strict=True):
            assert all(buckets[bucket].first <= e < buckets[bucket].stop for e in rows if e < 21)
            assert (rows[buckets[bucket].batch_size :] == 21).all(), (
                "no more than the bucket's batch"
            )
    assert (orders[0][1] != orders[1][1]).any()
    np.testing.assert_array_equal(orders[0][1], orders[2][1])


def test_bucket_lengths_cost_least_among_all_choices():
    counts = np.array([1] * 30 + [3] * 20 + [7] * 9 + [40] * 3)
    got = bucket_lengths(counts, 48, 3, lambda length: 1)

    def cost(lengths):
        return sum(min(length for length in lengths if length >= count) for count in counts)

    assert got[-1] == 40 and len(got) <= 3
    assert cost(got) == min(
        cost((a, b, 40))
        for a in (3, 4, 6, 8, 9, 12, 15, 16)
        for b in (8, 9, 12, 15, 16, 18, 21, 24)
    )
    assert bucket_lengths(counts, 48, 1, lambda length: 1) == (40,)


def test_training_histories_hold_each_user_with_two_training_clicks_once(random_dataset):
    expected = collections.Counter(
        tuple(s[-MAX_LEN:]) for s in training_clicks(random_dataset) if len(s) > 1
    )
    found = collections.Counter()
    groups = training_histories(random_dataset, MAX_LEN, batch_size=7)
    assert len(groups) > 1
    for group in groups:
        for history, length in zip(
            group.history.reshape(-1, group.history.shape[-1]),
            group.length.reshape(-1),
            strict=True,
        ):
            assert not history[length:].any()
            if length:
                found[tuple(history[:length].tolist())] += 1
    assert found == expected


WAYS = {
    "bce last": {"targets": "last"},
    "bce every": {"targets": "every"},
    "gbce every": {"targets": "every", "loss": "gbce"},
    "bce masked": {"targets": "masked"},
    "sampled_softmax": {"targets": "every", "loss": "sampled_softmax"},
}


@pytest.mark.parametrize("way", WAYS)
def test_negatives_are_never_outside_the_catalogue_nor_of_the_users_training_clicks(way):
    # Given a user whose training clicks cover the whole catalogue, as a bot's do
    num_items = 6
    everything = [3, 1, 4, 2, 5, 6]
    held_out = [1, 2]
    sequences = [[*everything, *held_out], [1, 2, 3, 4, 5], [2, 6, 2, 1]]
    dataset = make_dataset(sequences, num_items, num_negatives=0)
    assert dataset.users_without_negatives == 1
    model = "bert4rec" if "masked" in way else "sasrec"
    asked = Config(
        model=ModelConfig(model=model, max_len=8),
        train=TrainConfig(batch_size=8, num_negatives=5, length_buckets=1, **WAYS[way]),
    )
    examples, (bucket,) = training_examples(dataset, asked)
    users = np.asarray(examples.users)
    order = jnp.arange(len(users))
    clicks = device_clicks(dataset)
    key = jax.random.key(0)
    batch = make_batch(clicks, examples, order, key, asked, num_items, bucket.length)
    negatives = np.asarray(batch.negatives)
    if way == "sampled_softmax":  # negatives shared by a batch, for whoever is in it
        assert np.isin(negatives, range(1, num_items + 1)).all()
        return
    for user, known in enumerate(map(set, training_clicks(dataset))):
        of_user = set(negatives[users == user].ravel().tolist())
        if user == 0:
            assert of_user == {0}, "padding, which no loss counts"
        else:
            assert of_user and of_user <= set(range(1, num_items + 1)) - known


@pytest.mark.parametrize("loss", ["bce", "gbce"])
def test_a_user_without_negatives_is_trained_by_the_positives_alone(loss):
    asked = Config(train=TrainConfig(loss=loss, num_negatives=3))
    items = jnp.array([[0, 0, 0], [4, 5, 6]])
    batch = batches.Batch(None, None, jnp.array([1, 2]), jnp.ones(2), items)

    def target_losses(negatives):
        scores = objective.Scores(None, jnp.array([0.3, -0.2]), negatives)
        return objective.target_losses(None, scores, batch, asked, 6)

    scores = jnp.full((2, 3), 7.0)
    gradient = jax.grad(lambda negatives: target_losses(negatives).sum())(scores)
    assert (gradient[0] == 0).all() and (gradient[1] > 0).all()
    far_below = jnp.full((2, 3), -1e9)
    np.testing.assert_allclose(target_losses(scores)[0], target_losses(far_below)[0])
