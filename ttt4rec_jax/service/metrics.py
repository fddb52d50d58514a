"""What /metrics tells, in the format of Prometheus; the only module that imports its client.

With several processes, each writes to files in the folder that PROMETHEUS_MULTIPROC_DIR names,
which server.py makes before this module is imported.
"""

import functools
import os
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from ttt4rec_jax.service.settings import METRICS

MEDIA_TYPE = CONTENT_TYPE_LATEST
_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

REQUESTS = Counter("ttt4rec_requests", "Requests answered", ["route", "status"])
LATENCY = Histogram("ttt4rec_request_seconds", "Time to answer", ["route"], buckets=_FAST)
BATCH_SIZE = Histogram(
    "ttt4rec_batch_size",
    "Requests answered by one batch",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
BATCH_SECONDS = Histogram(
    "ttt4rec_batch_seconds", "Time of a batch, its commit included", buckets=_FAST
)
SESSIONS = Gauge("ttt4rec_sessions", "Sessions that are open", multiprocess_mode="mostrecent")


@functools.cache
def _children(route: str, status: int) -> tuple[Any, Any]:
    return REQUESTS.labels(route, str(status)), LATENCY.labels(route)


def note(route: str, status: int, seconds: float) -> None:
    """Count a request. route: one of few; the children of a metric are kept."""
    requests, latency = _children(route, status)
    requests.inc()
    latency.observe(seconds)


def render() -> bytes:
    """Return the metrics of all processes."""
    if METRICS not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
