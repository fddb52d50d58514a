"""Small models behind the service."""

import pytest
from helpers.service import REDIS_SERVER, local_service, redis_server
from starlette.testclient import TestClient

from ttt4rec_jax.service.models import RunModel


@pytest.fixture(scope="session")
def ttt(recommender_of):
    """The Recommender of a recurrent model."""
    return recommender_of("ttt4rec b4")


@pytest.fixture(scope="session")
def sasrec(recommender_of):
    """The Recommender of a model that reads its last clicks again; its items have titles."""
    return recommender_of("sasrec")


@pytest.fixture(scope="module")
def models(ttt, sasrec):
    return {"ttt": RunModel(ttt, 100), "sasrec": RunModel(sasrec, 100)}


@pytest.fixture(scope="module")
def service(models, tmp_path_factory):
    """(the device, a client) of a service with two models."""
    folder = tmp_path_factory.mktemp("service")
    with local_service(models, folder) as (link, app), TestClient(app) as client:
        yield link.device, client


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    if not REDIS_SERVER:
        pytest.skip("needs valkey-server or redis-server")
    with redis_server(tmp_path_factory.mktemp("redis")) as (_, url):
        yield url
