"""Requests that wait: together, in order, in time, and not too many."""

import asyncio
import json
import threading

import pytest
from helpers.service import local_service

from ttt4rec_jax.service.batching import MOST_TRIES, Batcher
from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import Answer, Request
from ttt4rec_jax.service.settings import ServiceConfig


class SlowExecutor:
    """Answers batches by their number, when it is let."""

    num_sessions = 0

    def __init__(self):
        self.batches = []
        self.go = threading.Semaphore(0)

    def execute(self, requests):
        self.go.acquire()
        self.batches.append([(request.session, request.key) for request in requests])
        if any(request.key == "fail" for request in requests):
            raise RuntimeError("no device")
        return [
            None if request.key == "conflict" else Answer(200, request.key.encode())
            for request in requests
        ]

    def purge_if_due(self):
        pass


@pytest.fixture
def running():
    """A function that starts a batcher: (batcher, executor, what was delivered)."""
    started = []

    def start(**settings):
        executor = SlowExecutor()
        delivered = []
        batcher = Batcher(executor, ServiceConfig(**settings), delivered.extend)
        batcher.start()
        started.append((batcher, executor))
        return batcher, executor, delivered

    yield start
    for batcher, executor in started:
        executor.go.release(1000)
        batcher.stop()


def submit(batcher, *requests):
    for session, key in requests:
        batcher.submit(Request("clicks", session=session, key=key), key)


def finish(batcher, executor):
    executor.go.release(1000)
    batcher.stop()


def test_what_waits_is_answered_together_and_a_session_in_order(running):
    batcher, executor, delivered = running(max_batch=3)
    submit(batcher, ("a", "1"))
    while batcher.queue:  # until the device is busy with it
        pass
    submit(batcher, *[("a", "2"), ("a", "3"), ("b", "4"), ("c", "5"), ("d", "6"), ("a", "7")])
    finish(batcher, executor)
    assert executor.batches == [
        [("a", "1")],
        [("a", "2"), ("b", "4"), ("c", "5")],
        [("a", "3"), ("d", "6")],
        [("a", "7")],
    ]
    assert sorted(owner for owner, _ in delivered) == list("1234567")
    assert all(answer.body.decode() == owner for owner, answer in delivered)
    with pytest.raises(Problem, match="stopping"):
        submit(batcher, ("a", "8"))


def test_more_than_the_queue_holds_are_told_to_wait(running):
    batcher, executor, delivered = running(max_queue=2)
    submit(batcher, ("a", "1"))
    while batcher.queue:
        pass
    submit(batcher, ("b", "2"), ("c", "3"))
    with pytest.raises(Problem) as refused:
        submit(batcher, ("d", "4"))
    assert refused.value.status == 429 and refused.value.retry_after
    finish(batcher, executor)
    assert len(delivered) == 3


def test_a_request_that_is_too_late_is_not_executed(running):
    batcher, executor, delivered = running(timeout_s=0.05)
    submit(batcher, ("a", "1"))
    while batcher.queue:
        pass
    submit(batcher, ("b", "2"))
    threading.Event().wait(0.1)
    finish(batcher, executor)
    assert [session for batch in executor.batches for session, _ in batch] == ["a"]
    statuses = {owner: answer.status for owner, answer in delivered}
    assert statuses == {"1": 200, "2": 503}


def test_failures_and_endless_conflicts_are_answered(running, caplog):
    batcher, executor, delivered = running()
    submit(batcher, ("a", "fail"))
    executor.go.release(1)
    while not delivered:
        pass
    submit(batcher, ("a", "conflict"), ("b", "2"))
    finish(batcher, executor)
    answers = dict(delivered)
    assert answers["fail"].status == 500 and b"no device" not in answers["fail"].body
    assert "no device" in caplog.text
    assert answers["conflict"].status == 429 and answers["2"].status == 200
    assert len(executor.batches) == 1 + MOST_TRIES


async def call(app, path, receive, headers=()):
    """Return (status, body) of a POST to an ASGI application."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"headers": [(b"content-type", b"application/json"), *headers], "query_string": b""}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("x", 1), "client": ("y", 2)}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_slow_body_and_a_slow_answer_are_given_up(models, tmp_path, monkeypatch):
    async def never():
        await asyncio.sleep(60)

    async def at_once():
        return {"type": "http.request", "body": b"", "more_body": False}

    with local_service(models, tmp_path, timeout_s=0.05) as (link, app):
        length = [(b"content-length", b"10")]
        status, body = asyncio.run(call(app, "/v1/recommend", never, length))
        assert status == 408 and "arrives within" in body["detail"]

        async def ask(request):
            await asyncio.sleep(60)

        monkeypatch.setattr(link, "ask", ask)
        status, body = asyncio.run(call(app, "/v1/sessions", at_once))
        assert status == 503 and "idempotency key" in body["detail"]
