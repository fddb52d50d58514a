"""Batches of evaluation targets: each target once, in a batch of its length. No JAX."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt4rec_jax.evaluation.grouping import group_by_length

MAX_LEN = 9
counts = st.lists(st.integers(1, 14), max_size=20).map(np.array)


@given(counts, counts, st.sampled_from([(9,), (3, 9), (1, 2, 9)]), st.integers(1, 6))
@pytest.mark.parametrize("per_dispatch", [None, 1, 2])
def test_every_target_has_a_slot_in_a_batch_of_its_length(
    per_dispatch, validation, test, lengths, rows
):
    seen = {"validation": validation.astype(int), "test": test.astype(int)}
    got = group_by_length(seen, MAX_LEN, lengths, rows, per_dispatch)
    for name, clicks in seen.items():
        batches = got.batches[name]
        assert list(batches) == sorted(batches)
        flat = np.concatenate([np.zeros(0, int), *(b.ravel() for b in batches.values())])
        padded = np.repeat([*batches, 0], [*(b.size for b in batches.values()), 0])
        # the slot of each target holds it, and the shortest length that is long enough
        np.testing.assert_array_equal(flat[got.slots[name]], np.arange(len(clicks)))
        expected = [min(length for length in lengths if length >= min(n, MAX_LEN)) for n in clicks]
        np.testing.assert_array_equal(padded[got.slots[name]], expected)
        for length, batch_MxB in batches.items():
            assert batch_MxB.shape == got.batches["test"][length].shape
            assert batch_MxB.shape[1] == rows
            assert len(batch_MxB) % got.per_dispatch[length] == 0
            assert per_dispatch is None or got.per_dispatch[length] <= per_dispatch
            # histories of similar length share a batch
            members = np.isin(got.slots[name], np.flatnonzero(padded == length))
            in_order = clicks[members][np.argsort(got.slots[name][members])]
            assert (np.diff(in_order) >= 0).all()


def test_batches_by_hand():
    got = group_by_length({"test": np.array([4, 1, 7, 2, 3])}, 4, (2, 4), rows=2)
    assert {length: batch.tolist() for length, batch in got.batches["test"].items()} == {
        2: [[1, 3]],
        4: [[4, 0], [2, 4]],
    }
    assert got.slots["test"].tolist() == [3, 0, 4, 1, 2]
    assert got.per_dispatch == {2: 1, 4: 2}
