"""Requests that schemathesis makes from the description, and broken ones: never a 5xx."""

import contextlib

import hypothesis
import pytest
from hypothesis import strategies as st

schemathesis = pytest.importorskip("schemathesis")

TRIES = 40  # of each operation


QUIET = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck)}


def attack(operation, kind, session: str) -> set[int]:
    """Try requests of an operation; return the statuses of the answers, none of them a 5xx."""
    statuses = set()

    @hypothesis.given(operation.as_strategy(generation_mode=kind), st.booleans())
    @hypothesis.settings(max_examples=TRIES, database=None, **QUIET)
    def try_it(case, in_session):
        if in_session and "id" in (case.path_parameters or {}) and case.method != "DELETE":
            case.path_parameters["id"] = session
        answer = case.call()
        statuses.add(answer.status_code)
        checks = [
            schemathesis.checks.not_a_server_error,
            schemathesis.checks.response_schema_conformance,
        ]
        case.validate_response(answer, checks=checks)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # without parameters, none is wrong
        try_it()
    return statuses


def test_no_request_of_the_description_fails(service):
    """Of every operation, valid ones and, as each is changed a little, others."""
    device, client = service
    session = client.post("/v1/sessions").json()["id"]
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    device.load = lambda: {name: x.model for name, x in device.executor.served.items()}
    device._warm = lambda models: None
    statuses = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses[operation.label] = set()
        for kind in schemathesis.GenerationMode:
            statuses[operation.label] |= attack(operation, kind, session)
    assert len(statuses) == 11
    assert 422 in statuses["POST /v1/sessions/{id}/clicks"]
    assert all(min(found) < 300 or "{id}" in name for name, found in statuses.items()), statuses


@hypothesis.given(st.binary(max_size=200), st.sampled_from(["clicks", "x"]), st.text(max_size=20))
@hypothesis.settings(max_examples=100, **QUIET)
def test_bytes_are_no_reason_to_fail(service, body, end, kind):
    _, client = service
    headers = {"content-type": "application/json"}
    for path in (f"/v1/sessions/a/{end}", "/v1/recommend"):
        assert client.post(path, content=body, headers=headers).status_code < 500
