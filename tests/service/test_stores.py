"""Every store keeps what it acknowledged, once, and notices what another process has changed."""

import sqlite3

import pytest

from data_prep.settings import UserError
from ttt4rec_jax.service.redis_store import RedisStore
from ttt4rec_jax.service.sqlite_store import SqliteStore
from ttt4rec_jax.service.store import Append, Changes, Clicks, Saved, StoreError

KEEP = 64


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request, tmp_path):
    """A function that opens another connection to the same store."""
    stores = []

    def make(ttl_s=60, **options):
        if request.param == "sqlite":
            store = SqliteStore(tmp_path / "s.sqlite3", ttl_s, KEEP, **options)
        else:
            store = RedisStore(request.getfixturevalue("redis_url"), ttl_s, KEEP, **options)
        stores.append(store)
        return store

    if request.param == "redis":
        make().client.flushdb()
    yield make
    for store in stores:
        store.close()


def append(session, first, *ids, key="", times=None):
    return Changes(appends=[Append(session, Clicks(first, list(ids), times), key)])


def test_clicks_come_back_in_order_and_once(open_store):
    store = open_store()
    assert store.commit(Changes(creates=["a", "b"])) == set()
    times = [1_700_000_000.123, 1_700_000_001.0]
    assert store.commit(append("a", 0, "1", "2", key="k1", times=times)) == set()
    assert store.commit(append("a", 2, "é\u2028'", key="k2")) == set()
    # another process that has not seen k2 yet, and a session that does not exist
    assert store.commit(append("a", 2, "9", key="k3")) == {"a"}
    assert store.commit(append("nobody", 0, "9")) == {"nobody"}
    other = open_store()
    assert other.counts(["a", "b", "nobody"]) == {"a": 3, "b": 0}
    assert other.clicks("a", 0, 3) == [Clicks(0, ["1", "2"], times), Clicks(2, ["é\u2028'"])]
    assert other.clicks("a", 1, 2) == [Clicks(0, ["1", "2"], times)]
    assert other.clicks("a", 2, 3) == [Clicks(2, ["é\u2028'"])]
    keys = [("a", "k1"), ("a", "k2"), ("a", "k3"), ("b", "k1")]
    assert other.outcomes(keys) == {("a", "k1"): 2, ("a", "k2"): 3}
    assert other.clicks("nobody", 0, 1) == []


def test_a_conflict_stops_no_other_session_of_the_batch(open_store):
    store = open_store()
    store.commit(Changes(creates=["a", "b"]))
    both = Changes(appends=[Append("a", Clicks(5, ["1"]), ""), Append("b", Clicks(0, ["1"]), "")])
    assert store.commit(both) == {"a"}
    assert store.counts(["a", "b"]) == {"a": 0, "b": 1}


def test_saved_states_replace_older_ones_and_drop_clicks_beyond_the_bound(open_store):
    store = open_store()
    store.commit(Changes(creates=["a"]))
    assert store.saved("a", "v1") is None
    for first in range(0, 130, 10):
        store.commit(append("a", first, *map(str, range(first, first + 10)), key=f"k{first}"))
    store.commit(Changes(saved={("a", "v1"): Saved(64, b"\x00\xff", b"")}))
    assert store.clicks("a", 0, 130)[0].first == 0
    saved = Saved(128, b"state\x00", b"\x01seen")
    store.commit(Changes(saved={("a", "v1"): saved, ("gone", "v1"): saved}))
    assert store.saved("a", "v1") == saved and store.saved("a", "v2") is None
    assert store.saved("gone", "v1") is None
    # a request is kept as a whole while any of its clicks is among the last 64
    assert store.clicks("a", 0, 130)[0].first == 60
    assert store.outcomes([("a", "k50"), ("a", "k60")]) == {("a", "k60"): 70}
    assert [c.first for c in store.clicks("a", 128, 130)] == [120]


def test_deleted_sessions_leave_nothing(open_store):
    store = open_store()
    store.commit(Changes(creates=["a", "b"]))
    store.commit(append("a", 0, "1", key="k"))
    store.commit(Changes(saved={("a", "v"): Saved(1, b"s", b"s")}))
    store.commit(Changes(deletes=["a"]))
    assert store.counts(["a", "b"]) == {"b": 0} and store.purge() == 1
    assert store.clicks("a", 0, 1) == [] and store.outcomes([("a", "k")]) == {}
    assert store.saved("a", "v") is None


def test_sessions_expire_after_their_last_click(tmp_path, request):
    moment = 1000.0
    store = SqliteStore(tmp_path / "s.sqlite3", 10, KEEP, now=lambda: moment)
    store.commit(Changes(creates=["a", "b"]))
    moment = 1009.0
    store.commit(append("a", 0, "1"))
    moment = 1010.0
    assert store.counts(["a", "b"]) == {"a": 1}
    assert store.purge() == 1
    moment = 1019.0
    assert store.counts(["a"]) == {} and store.commit(append("a", 1, "2")) == {"a"}
    assert store.purge() == 0 and store.clicks("a", 0, 1) == []
    store.close()


def test_redis_expires_every_key_of_a_session(redis_url):
    store = RedisStore(redis_url, 100, KEEP)
    store.client.flushdb()
    store.commit(Changes(creates=["a"]))
    store.commit(append("a", 0, "1", key="k"))
    store.commit(Changes(saved={("a", "v"): Saved(1, b"s", b"s")}))
    ttls = {key: store.client.ttl(key) for key in store.client.keys("*")}
    assert sorted(ttl > 0 for ttl in ttls.values()) == [False, True, True, True]  # t:open stays
    assert "power loss" in store.durability
    store.client.config_set("appendfsync", "everysec")
    assert "a second" in RedisStore(redis_url, 100, KEEP).durability
    store.client.config_set("appendfsync", "always")
    later = RedisStore(redis_url, 100, KEEP, now=lambda: 2**33)
    assert later.purge() == 0


def test_a_store_that_cannot_be_used_says_so(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to have a header " * 20)
    with pytest.raises(UserError, match=r"--sessions: .*text.*not a database"):
        SqliteStore(tmp_path / "text", 60, KEEP)
    with pytest.raises(UserError, match=r"--sessions: .*unable to open"):
        SqliteStore(tmp_path / "no" / "folder", 60, KEEP)
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(UserError, match="version 0 with 1 tables"):
        SqliteStore(tmp_path / "other", 60, KEEP)
    with pytest.raises(UserError, match="--sessions: Redis cannot be used"):
        RedisStore("redis://127.0.0.1:1/0", 60, KEEP)
    store = SqliteStore(tmp_path / "s", 60, KEEP)
    store.close()
    with pytest.raises(StoreError, match="SQLite"):
        store.counts(["a"])


def test_sessions_of_an_earlier_version_are_read_and_go_on(tmp_path, request):
    """Version 1 kept no times of clicks."""
    store = SqliteStore(tmp_path / "s", 60, KEEP)
    store.commit(Changes(creates=["a"]))
    store.commit(append("a", 0, "1", key="k"))
    store.close()
    earlier = sqlite3.connect(tmp_path / "s")
    earlier.execute("ALTER TABLE clicks DROP COLUMN times")
    earlier.execute("PRAGMA user_version = 1")
    earlier.commit()
    earlier.close()
    for _ in range(2):  # brought up to date once
        store = SqliteStore(tmp_path / "s", 60, KEEP)
        assert store.clicks("a", 0, 1) == [Clicks(0, ["1"])]
        assert store.outcomes([("a", "k")]) == {("a", "k"): 1}
        assert store.commit(append("a", 1, "2", times=[5.0])) in (set(), {"a"})
        assert store.clicks("a", 1, 2) == [Clicks(1, ["2"], [5.0])]
        store.close()


def test_redis_reads_requests_of_an_earlier_version(redis_url):
    store = RedisStore(redis_url, 60, KEEP)
    store.client.flushdb()
    store.commit(Changes(creates=["a"]))
    store.commit(append("a", 0, "1", times=[5.0]))
    (key,) = store.client.keys("*:c:*")
    store.client.lset(key, 0, '[0, ["1"], ""]')
    assert store.clicks("a", 0, 1) == [Clicks(0, ["1"])]
