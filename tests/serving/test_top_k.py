"""top_k.py and the array helpers of load_export.py against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt4rec_jax.evaluation import ranking
from ttt4rec_jax.serving import top_k
from ttt4rec_jax.serving.load_export import set_bits, windows
from ttt4rec_jax.serving.recurrent import CHUNK_SIZES, chunked


@pytest.mark.parametrize("k", [1, 3, 40, 150])
def test_top_k_equals_a_stable_sort_ties_included(k):
    score_NxBxC = np.random.default_rng(0).integers(0, 40, (3, 5, 512)).astype(np.float32)
    score_NxBxC[1, 2] = -np.inf
    scores, items = jax.jit(top_k.grouped_top_k, static_argnames="k")(score_NxBxC, k)
    flat = score_NxBxC.swapaxes(0, 1).reshape(5, -1)
    expected = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(items - 1, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(flat, expected, 1))


@pytest.mark.parametrize("most_scores", [2**21, 1])  # by one product, and by tiles
def test_top_k_of_users_equals_a_stable_sort_ties_included(monkeypatch, most_scores):
    monkeypatch.setattr(top_k, "MOST_SCORES", most_scores)
    random = np.random.default_rng(0)
    item_NxCxD = random.integers(-2, 3, (3, 512, 4)).astype(np.float32)
    user_BxKxD = random.integers(-2, 3, (5, 2, 4)).astype(np.float32)
    blocked = random.random((5, 1500)) < 0.3
    packed_BxW = np.stack([top_k.pack_mask(row) for row in blocked])
    products_BxKxV = user_BxKxD @ item_NxCxD.reshape(-1, 4).T
    flat = np.pad(blocked, ((0, 0), (0, 36)), constant_values=True)
    flat = np.where(flat, -np.inf, products_BxKxV.max(1))
    for k in (3, 150):  # by groups, and by the whole catalogue
        scores, items = jax.jit(top_k.top_k_of_users, static_argnums=(0, 4))(
            None, user_BxKxD, item_NxCxD, packed_BxW, k
        )
        expected = np.argsort(-flat, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(items - 1, expected)
        np.testing.assert_array_equal(scores, np.take_along_axis(flat, expected, 1))


@pytest.mark.parametrize("num_users", [1, 3, 8, 33])
def test_scores_of_equal_items_are_equal_to_the_bit(num_users):
    random = np.random.default_rng(0)
    item_NxCxD = np.broadcast_to(random.normal(size=50).astype(np.float32), (5, 512, 50))
    user_BxKxD = random.normal(size=(num_users, 1, 50)).astype(np.float32)
    blocked_BxW = np.zeros((num_users, 5 * 64), np.uint8)
    scores, items = jax.jit(top_k.top_k_of_users, static_argnums=(0, 4))(
        None, user_BxKxD, item_NxCxD, blocked_BxW, 80
    )
    assert (scores == scores[:, :1]).all()
    assert (items == np.arange(1, 81)).all()
    all_scores = jax.jit(ranking.Products(None).items)(user_BxKxD, item_NxCxD.reshape(-1, 50))
    assert (all_scores == all_scores[:1]).all()


@pytest.mark.parametrize("num_items", [1, 30, 511, 512, 1025])
def test_bits_of_blocked_items_and_of_padding(num_items):
    blocked = np.random.default_rng(0).random((3, num_items)) < 0.5
    items = [np.flatnonzero(row) + 1 for row in blocked]
    set_one_by_one = np.repeat(top_k.pack_mask(np.zeros(num_items, bool))[None], 3, 0)
    set_bits(set_one_by_one, [np.concatenate([row, row[:1]]) for row in items])  # one item twice
    for bits in (set_one_by_one, np.stack([top_k.pack_mask(row) for row in blocked])):
        mask = np.asarray(top_k.unpack_mask(jnp.asarray(bits), 1))
        np.testing.assert_array_equal(mask[:, :num_items], blocked)
        assert mask[:, num_items:].all() and mask.shape[1] % ranking.TILE == 0


def test_windows_hold_the_last_items_at_the_left():
    history_BxL, length_B = windows([np.arange(1, 6), np.zeros(0, np.int32), np.array([9])], 3)
    assert history_BxL.tolist() == [[3, 4, 5], [0, 0, 0], [9, 0, 0]]
    assert length_B.tolist() == [3, 0, 1]


def test_chunks_joined_are_the_clicks():
    for longest in (0, 1, 2, 8, 9, 64, 65, 130):
        clicks = [np.arange(1, n + 1, dtype=np.int32) for n in (longest, longest // 2, 0)]
        chunks = chunked(clicks)
        assert len(chunks) == max(-(-longest // CHUNK_SIZES[-1]), 1)
        assert {click_BxT.shape[1] for click_BxT, _ in chunks} <= set(CHUNK_SIZES)
        for row, expected in enumerate(clicks):
            parts = [click_BxT[row, : length_B[row]] for click_BxT, length_B in chunks]
            np.testing.assert_array_equal(np.concatenate(parts), expected)
