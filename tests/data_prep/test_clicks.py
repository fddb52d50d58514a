"""k-core, ids and sorting against brute-force twins."""

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import clicks, readers

CLICKS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(-3, 3)), max_size=60)


def table(rows):
    """Rows (user, item, time) as parsed clicks, ids prefixed so that they are text."""
    schema = {"user": pl.String, "item": pl.String, "time": pl.Int64}
    named = [(f"u{user}", f"i{item}", time) for user, item, time in rows]
    return readers.encode(pl.LazyFrame(named, schema=schema, orient="row")).lazy()


def text(frame):
    return frame.with_columns(pl.col("user", "item").cast(pl.String)).collect().rows()


def brute_k_core(rows, user_core, item_core):
    while True:
        users = Counter(r[0] for r in rows)
        items = Counter(r[1] for r in rows)
        kept = [r for r in rows if users[r[0]] >= user_core and items[r[1]] >= item_core]
        if len(kept) == len(rows):
            return kept
        rows = kept


@given(CLICKS, st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=100)
def test_k_core_is_the_brute_force_one_in_input_order(rows, user_core, item_core):
    kept = clicks.k_core(table(rows), user_core, item_core)
    assert text(kept) == text(table(brute_k_core(rows, user_core, item_core)))


def test_k_core_cascades():
    # Dropping item 9 leaves user 3 short, which leaves item 2 short, which leaves user 2 short.
    rows = [(1, 1, 0), (1, 1, 1), (2, 1, 2), (2, 2, 3), (3, 2, 4), (3, 9, 5)]
    assert text(clicks.k_core(table(rows), 2, 2)) == [("u1", "i1", 0), ("u1", "i1", 1)]


def test_order_and_k_core_hold_for_a_table_of_many_chunks():
    rng = np.random.default_rng(0)
    size = 400_000
    columns = {
        "user": rng.integers(0, 3000, size),
        "item": rng.zipf(1.3, size) % 5000,
        "time": rng.integers(0, 50, size),
    }
    frame = pl.DataFrame(columns).lazy().with_columns(pl.col("user", "item").cast(pl.String))
    kept = clicks.k_core(readers.encode(frame).lazy(), 120, 10)
    users = clicks.id_table(kept, "user")
    items = clicks.id_table(kept, "item")
    found = clicks.in_order(clicks.numbered(kept, users, items)).collect()

    keep = np.ones(size, bool)
    while True:
        enough_users = np.bincount(columns["user"][keep], minlength=3000) >= 120
        enough_items = np.bincount(columns["item"][keep], minlength=5000) >= 10
        before = keep
        keep = keep & enough_users[columns["user"]] & enough_items[columns["item"]]
        if (keep == before).all():
            break
    assert 0 < keep.sum() < size
    user, item, time = (columns[name][keep] for name in ("user", "item", "time"))
    order = np.lexsort((time, user))  # stable
    assert (found["user"].to_numpy() == np.unique(user, return_inverse=True)[1][order]).all()
    assert (found["item"].to_numpy() == np.unique(item, return_inverse=True)[1][order] + 1).all()
    assert (found["time"].to_numpy() == time[order]).all()


def in_order(rows):
    frame = pl.LazyFrame(
        rows, schema={"user": pl.UInt32, "item": pl.UInt32, "time": pl.Int64}, orient="row"
    )
    return clicks.in_order(frame).collect().rows()


@given(CLICKS.filter(bool))
@settings(max_examples=50)
def test_clicks_are_sorted_by_user_time_and_input_order(rows):
    assert in_order(rows) == sorted(rows, key=lambda row: (row[0], row[2]))


def test_times_at_the_ends_of_64_bits_are_sorted():
    low = -(2**63)
    high = 2**63 - 1
    rows = [(1, 1, high), (0, 2, 5), (1, 3, low), (1, 4, high), (0, 5, low), (1, 6, 0)]
    assert in_order(rows) == sorted(rows, key=lambda row: (row[0], row[2]))


def ids(values):
    schema = {"user": pl.String, "item": pl.String, "time": pl.Int64}
    frame = readers.encode(
        pl.LazyFrame([(v, v, 0) for v in values], schema=schema, orient="row")
    ).lazy()
    return clicks.id_table(frame, "user")["id"].to_list()


def test_integer_ids_are_numbered_in_numerical_order():
    assert ids(["10", "9", "-3", "9", "100"]) == [-3, 9, 10, 100]


def test_other_ids_are_numbered_as_text():
    assert ids(["10", "9", "b", "a"]) == ["10", "9", "a", "b"]
    assert ids(["10", "9", "09"]) == [
        "09",
        "10",
        "9",
    ]  # one with a leading zero must not become another's twin
    assert ids(["10", "9", str(2**70)]) == ["10", str(2**70), "9"]
