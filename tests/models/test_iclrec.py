"""ICLRec: losses and Lloyd's algorithm against loops in NumPy, augmentations, inert fillers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttt4rec_jax.config import ModelConfig
from ttt4rec_jax.data.batches import Batch
from ttt4rec_jax.data.examples import Histories
from ttt4rec_jax.models import iclrec
from ttt4rec_jax.models.iclrec import IclRec

LENGTH = 12
ITEMS = 30
DIM = 8
INTENTS = 3
MASK = ITEMS + 1


def build(**settings):
    sizes = {
        "model": "iclrec",
        "dim": DIM,
        "num_heads": 2,
        "max_len": LENGTH,
        "num_intents": INTENTS,
        "dropout": 0.3,
    }
    weights = {"intent_weight": 0.3, "contrast_weight": 0.7, "contrast_temperature": 0.5}
    return IclRec(ModelConfig(**sizes | weights | settings), ITEMS, nnx.Rngs(0))


def random_histories(lengths, seed=0):
    items = np.random.default_rng(seed).integers(1, ITEMS + 1, (*np.shape(lengths), LENGTH))
    valid = np.arange(LENGTH) < np.asarray(lengths)[..., None]
    return jnp.asarray(np.where(valid, items, 0), jnp.int32)


def make_batch(lengths, weight, every=True):
    history = random_histories(lengths)
    weight = np.asarray(weight, np.float32)
    weight = weight[:, None] * (history > 0) if every else jnp.asarray(weight)
    return Batch(history, jnp.asarray(lengths, jnp.int32), history, weight, jnp.zeros(0, jnp.int32))


def some_context(seed=1):
    return {"intents": jax.random.normal(jax.random.key(seed), (INTENTS, DIM))}


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def loss_and_grads(model):
    """Return the compiled function to (auxiliary loss, its gradients) of six rows."""
    graphdef, _, rest = nnx.split(model, nnx.Param, ...)
    return jax.jit(
        jax.value_and_grad(
            lambda params, *args: nnx.merge(graphdef, params, rest).auxiliary_loss(*args)
        )
    )


def nt_xent(a, b, label, real, temperature):
    """Return the loss of the module's docstring, one anchor and one candidate at a time.

    Histories of the same label are not negatives of each other.
    """
    a, b, real = map(np.asarray, (a, b, real))
    total = []
    for x, y in ((a, b), (b, a)):
        for i in np.flatnonzero(real):
            logits = [x[i] @ y[i]]
            for j in np.flatnonzero(real):
                if label[j] != label[i]:
                    logits += [x[i] @ y[j], x[i] @ x[j]]
            logits = np.array(logits) / temperature
            total.append(np.log(np.exp(logits).sum()) - logits[0])
    return np.mean(total)


def two_views(seed=0, rows=7):
    a, b = np.random.default_rng(seed).standard_normal((2, rows, DIM)).astype(np.float32)
    real = np.array([1, 1, 0, 1, 1, 1, 0], bool)[:rows]
    return tuple(map(jnp.asarray, (a, b, real)))


@pytest.mark.parametrize("label", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 2, 0, 1], [0] * 7])
def test_contrast_loss_equals_a_loop(label):
    a, b, real = two_views()
    same = jnp.asarray(np.equal.outer(label, label))
    loss = iclrec.contrast_loss(a, b, same, real, 0.5)
    np.testing.assert_allclose(loss, nt_xent(a, b, label, real, 0.5), rtol=1e-5, atol=1e-6)


def test_intent_loss_contrasts_each_view_with_the_unit_intent_of_its_history():
    a, b, real = two_views(1)
    intents = some_context()["intents"]
    intent = jnp.array([0, 2, 1, 2, 0, 1, 1])
    c = (intents / jnp.linalg.norm(intents, axis=1, keepdims=True))[intent]
    expected = (nt_xent(a, c, intent, real, 0.5) + nt_xent(b, c, intent, real, 0.5)) / 2
    np.testing.assert_allclose(
        iclrec.intent_loss(a, b, intent, intents, real, 0.5), expected, rtol=1e-5
    )


@pytest.mark.parametrize("every, score", [(True, "dot"), (False, "cosine")])
def test_own_loss_is_the_weighted_sum_of_both(every, score):
    model = build(score=score, dropout=0.8)
    key = jax.random.key(3)
    batch = make_batch([12, 5, 1, 9, 3, 12], [1, 1, 1, 0, 1, 1], every)
    real = np.array([1, 1, 1, 0, 1, 1], bool)
    view_key, dropout_key = jax.random.split(key)
    views, lengths = iclrec.augment(
        jnp.tile(batch.history, (2, 1)), jnp.tile(batch.length, 2), MASK, view_key
    )
    summary = nnx.jit(lambda model, *args: model.summary(*args))
    first, second = np.split(np.array(summary(model, views, lengths, dropout_key)), 2)
    # the intents are those of the histories themselves, without dropout; their means are taken here
    # one by one
    represent = nnx.jit(
        lambda model: model.represent(batch.history, batch.length, every=True, key=None)
    )
    h = np.stack(
        [
            x[:n].mean(0)
            for x, n in zip(np.array(represent(model)), np.array(batch.length), strict=True)
        ]
    )
    intents = 2 * h[[0, 2, 4]]
    intent = np.square(h[:, None] - intents).sum(-1).argmin(-1)
    assert 1 < len(set(intent[real])) < 5
    dropped = np.array(summary(model, batch.history, batch.length, dropout_key))
    assert (np.square(dropped[:, None] - intents).sum(-1).argmin(-1) != intent)[real].any()
    c = (intents / np.linalg.norm(intents, axis=1, keepdims=True))[intent]
    by_intent = (nt_xent(first, c, intent, real, 0.5) + nt_xent(second, c, intent, real, 0.5)) / 2
    expected = 0.7 * nt_xent(first, second, np.arange(6), real, 0.5) + 0.3 * by_intent
    loss = nnx.jit(lambda model, *args: model.auxiliary_loss(*args))(
        model, batch, {"intents": jnp.asarray(intents)}, key
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_own_loss_of_stacked_runs_is_that_of_each(model, loss_and_grads):
    batch = make_batch([12, 5, 1, 9, 3, 12], [1, 1, 1, 0, 1, 1])
    keys = jax.random.split(jax.random.key(0))
    params = nnx.state(model, nnx.Param)
    runs = [
        (p, batch, some_context(seed), key)
        for p, seed, key in zip((params, twice(params)), (1, 2), keys, strict=True)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *runs)
    expected = [loss_and_grads(*run)[0] for run in runs]
    graphdef, _, rest = nnx.split(model, nnx.Param, ...)
    loss = jax.vmap(lambda params, *args: nnx.merge(graphdef, params, rest).auxiliary_loss(*args))
    np.testing.assert_allclose(jax.jit(loss)(*stacked), expected, rtol=1e-5)
    assert expected[0] != expected[1]


def twice(params):
    return jax.tree.map(lambda x: 2 * x, params)


def test_fillers_are_inert_to_the_bit(model, loss_and_grads):
    filler = jnp.array([0, 1, 0, 0, 1, 0], bool)
    batch = make_batch([12, 5, 1, 9, 3, 12], ~filler)
    other = random_histories([12, 7, 1, 9, 0, 12], seed=1)
    other = batch._replace(
        history=jnp.where(filler[:, None], other, batch.history),
        length=jnp.where(filler, (other > 0).sum(1), batch.length),
    )
    params = nnx.state(model, nnx.Param)
    results = [loss_and_grads(params, b, some_context(), jax.random.key(5)) for b in (batch, other)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert results[0][0] > 0


@pytest.mark.parametrize("weight", [[1, 0, 0, 0, 0, 0], [0] * 6])
def test_nothing_to_contrast_with_is_no_loss(weight, model, loss_and_grads):
    batch = make_batch([4, 6, 2, 1, 1, 1], weight)
    results = loss_and_grads(nnx.state(model, nnx.Param), batch, some_context(), jax.random.key(0))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), results)


@pytest.mark.parametrize("zero_parameters", [True, False])
def test_gradients_are_finite_where_vectors_are_zero(zero_parameters, model, loss_and_grads):
    params = nnx.state(model, nnx.Param)
    params = jax.tree.map(jnp.zeros_like, params) if zero_parameters else params
    batch = make_batch([4, 6, 2, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    loss, grads = loss_and_grads(params, batch, model.initial_context(), jax.random.key(0))
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    if zero_parameters:
        # L_SeqCL: one positive and two others, twice, all of similarity 0; in one intent there are
        # no others
        np.testing.assert_allclose(loss, 0.7 * np.log(5), rtol=1e-6)


@pytest.fixture(scope="module")
def crops():
    return jax.jit(jax.vmap(iclrec.crop, (None, None, 0)))


@pytest.mark.parametrize("n", range(1, LENGTH + 1))
def test_crop_is_any_run_of_a_fifth(n, crops):
    history = jnp.arange(1, LENGTH + 1) * (jnp.arange(LENGTH) < n)
    size = max(n // 5, 1)
    starts = np.r_[np.linspace(0, 1, 4 * LENGTH, endpoint=False), 1 - 2**-24].astype(np.float32)
    views, lengths = map(np.array, crops(history, n, starts))
    np.testing.assert_array_equal(lengths, size)
    np.testing.assert_array_equal(views[:, :size], views[:, :1] + np.arange(size))
    np.testing.assert_array_equal(views[:, size:], 0)
    assert set(views[:, 0]) == set(range(1, n - size + 2))


@pytest.mark.parametrize("n", range(1, LENGTH + 1))
def test_seven_tenths_of_the_clicks_are_masked(n):
    history = random_histories(n)
    noise = np.random.default_rng(n).random(LENGTH, np.float32)
    view = np.array(iclrec.mask_items(history, jnp.asarray(n), jnp.asarray(noise), MASK))
    masked = np.argsort(noise[:n])[: 7 * n // 10]
    np.testing.assert_array_equal(np.flatnonzero(view == MASK), np.sort(masked))
    np.testing.assert_array_equal(view[view != MASK], history[view != MASK])
    np.testing.assert_array_equal(view[n:], 0)


@pytest.mark.parametrize("n", [1, 4, 5, 9, 10, 12])
@pytest.mark.parametrize("start", [0.0, 0.5, 1 - 2**-24])
def test_reorder_shuffles_a_run_of_a_fifth(n, start):
    history = random_histories(n)
    size = n // 5
    first = int(np.float32(start) * (n - size + 1))
    noise = jnp.linspace(1 - 2**-24, 0, LENGTH, dtype=jnp.float32)  # the run comes out reversed
    expected = np.array(history)
    expected[first : first + size] = expected[first : first + size][::-1].copy()
    run = history, jnp.asarray(n), jnp.asarray(start, jnp.float32)
    np.testing.assert_array_equal(iclrec.reorder(*run, noise), expected)
    np.testing.assert_array_equal(iclrec.reorder(*run, jnp.zeros(LENGTH)), history)


def test_augment_draws_a_view_for_each_history():
    length_B = jnp.tile(jnp.array([12, 10, 3, 1]), 300)
    history_BxL = random_histories(length_B)
    augment = jax.jit(lambda key: iclrec.augment(history_BxL, length_B, MASK, key))
    lengths = np.asarray(length_B)
    histories = np.asarray(history_BxL)
    views, sizes = map(np.array, augment(jax.random.key(0)))
    of = {"crop": sizes < lengths, "mask": (views == MASK).any(1)}
    of["reorder"] = ~of["crop"] & ~of["mask"]
    for name, chosen in of.items():
        assert 80 < chosen[lengths == 12].sum() < 120, name
    for history, view, n, size in zip(histories, views, lengths, sizes, strict=True):
        assert size in (n, max(n // 5, 1))
        np.testing.assert_array_equal(view[size:], 0)
        assert (view[:size] > 0).all() and set(view[:size]) <= {*history[:n], MASK}
    for history, view, n in zip(
        histories[of["reorder"]], views[of["reorder"]], lengths[of["reorder"]], strict=True
    ):
        np.testing.assert_array_equal(np.sort(view), np.sort(history))
        moved = np.flatnonzero(view != history)
        assert not len(moved) or np.ptp(moved) < n // 5
    assert (views != histories)[of["reorder"] & (lengths >= 10)].any()
    again, _ = augment(jax.random.key(0))
    other, _ = augment(jax.random.key(1))
    np.testing.assert_array_equal(views, again)
    assert (views != other).any()


def blobs(seed=0):
    """Return points near five distant centres [M, B, D], their centres' numbers, which are real.

    Fillers lie further away still.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, (6, 20))
    real = rng.random((6, 20)) < 0.8
    points = 10 * np.eye(DIM)[label] + 0.1 * rng.standard_normal((6, 20, DIM))
    return np.where(real[..., None], points, 1e3).astype(np.float32), label, real


def lloyd(points, real, start):
    return np.array(LLOYD(*map(jnp.asarray, (points, real, start))))


LLOYD = jax.jit(iclrec.lloyd)


def test_kmeans_finds_distant_clusters():
    points, label, real = blobs()
    centres = lloyd(points, real, points[real][np.unique(label[real], return_index=True)[1]])
    expected = [points[real & (label == c)].mean(0) for c in range(5)]
    np.testing.assert_allclose(centres, expected, rtol=1e-5, atol=1e-5)
    # a random start may end in fewer clusters than centres; the best of several starts finds all
    kmeans = jax.jit(lambda key: iclrec.kmeans(jnp.asarray(points), jnp.asarray(real), 5, key))
    centres = [np.array(kmeans(key)) for key in jax.random.split(jax.random.key(0), 30)]
    errors = [np.square(points[real][:, None] - c).sum(-1).min(-1).mean() for c in centres]
    assert min(errors) < 0.2 and max(map(np.max, centres)) < 20


def test_lloyd_equals_a_loop():
    rng = np.random.default_rng(1)
    points = rng.standard_normal((6, 20, DIM)).astype(np.float32)
    real = rng.random((6, 20)) < 0.8
    start = np.r_[points[real][:6], np.full((1, DIM), 99, np.float32)]  # no point is near the last
    expected = start.copy()
    for _ in range(20):
        label = np.square(points[real][:, None] - expected).sum(-1).argmin(-1)
        expected = np.stack(
            [
                points[real][label == c].mean(0) if (label == c).any() else expected[c]
                for c in range(7)
            ]
        )
    np.testing.assert_allclose(lloyd(points, real, start), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(expected[-1], 99)
    other = np.where(real[..., None], points, np.float32(5))
    np.testing.assert_array_equal(lloyd(points, real, start), lloyd(other, real, start))


def test_kmeans_starts_at_distinct_real_points(monkeypatch):
    monkeypatch.setattr(iclrec, "lloyd", lambda points, real, start: start)
    points, _, real = blobs()
    count = int(real.sum())

    def kmeans(count, seed):
        key = jax.random.key(seed)
        return np.array(iclrec.kmeans(jnp.asarray(points), jnp.asarray(real), count, key))

    start = kmeans(count, 0)
    np.testing.assert_array_equal(np.unique(start, axis=0), np.unique(points[real], axis=0))
    # more centres than points: each point once or twice
    start = kmeans(count + 3, 0)
    assert len(np.unique(start, axis=0)) == count and start.max() < 20
    draws = [kmeans(4, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_context_is_learned_from_histories_of_two_clicks_or_more():
    # Given as many intents as users, so that each is some user's summary
    model = build(num_intents=4)
    key = jax.random.key(0)
    lengths = jnp.array([[12, 0, 5, 1], [2, 1, 0, 7]])
    histories = random_histories(lengths)
    graphdef, params = nnx.split(model)
    learn = jax.jit(
        lambda histories, lengths: nnx.merge(graphdef, params).learn_context(
            (Histories(histories, lengths),), key
        )
    )
    context = learn(histories, lengths)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), context) == jax.tree.map(
        lambda x: (x.shape, x.dtype), model.initial_context()
    )
    changed = jnp.where(
        (lengths < 2)[..., None], random_histories(lengths * 0 + 12, seed=9), histories
    )
    np.testing.assert_array_equal(context["intents"], learn(changed, lengths)["intents"])
    summary = nnx.jit(lambda model, *args: model.summary(*args))
    summaries = summary(model, histories.reshape(8, LENGTH), lengths.reshape(8))
    summaries = np.array(summaries)[np.array(lengths).reshape(8) > 1]
    intents = np.array(context["intents"])
    order = [np.square(intents - s).sum(-1).argmin() for s in summaries]
    np.testing.assert_allclose(intents[order], summaries, rtol=1e-4, atol=1e-5)
    assert sorted(order) == [0, 1, 2, 3]
