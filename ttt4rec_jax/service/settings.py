"""The settings of the service. Imports no JAX."""

import dataclasses

from data_prep.settings import UserError, check, option

API_KEY = "TTT4REC_API_KEY"
METRICS = "PROMETHEUS_MULTIPROC_DIR"  # folder of the metrics of several processes
REDIS = ("redis://", "rediss://", "unix://")
SAVE_EVERY = 64  # clicks of a session between two saved states


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Where the service listens, where sessions are kept, how requests are batched, and limits."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for every network interface.")
    port: int = option(8000, "Port to listen on; 0 for any that is free.", low=0, high=65535)
    workers: int = option(
        1, "HTTP processes that share the port and the one device process.", low=1, high=64
    )
    sessions: str = option(
        "sessions.sqlite3",
        "Where sessions are kept: the path of a SQLite file, or redis://HOST:PORT/DB for several "
        "replicas (also rediss:// and unix://).",
    )
    session_ttl_s: int = option(
        30 * 86400, "Seconds after its last click at which a session expires.", low=1
    )
    keep_clicks: int = option(
        1000,
        "Clicks of a session that are kept. A session with more clicks cannot be carried over to "
        "another run, and the idempotency keys of older clicks are forgotten.",
        low=SAVE_EVERY,
        high=1_000_000,
    )
    cached_sessions: int = option(
        10_000, "Sessions whose state stays in memory; others are read from the store.", low=1
    )
    max_batch: int = option(
        128, "Most requests that one call of the device answers.", low=1, high=4096
    )
    batch_wait_ms: float = option(
        0.0,
        "How long a request waits for others when the device is idle. Requests that arrive while "
        "it is busy are always answered together.",
        low=0.0,
        high=1000.0,
    )
    max_queue: int = option(
        1024, "Requests that wait at most; further ones are answered by 429.", low=1
    )
    max_sessions: int = option(1_000_000, "Sessions that are kept at most.", low=1)
    max_body_kb: int = option(256, "Largest body of a request in KiB.", low=1, high=65536)
    max_histories: int = option(64, "Most histories of one request.", low=1, high=4096)
    max_history: int = option(1000, "Most ids of a history or of a filter.", low=1)
    max_clicks: int = option(100, "Most clicks of one request.", low=1, high=10_000)
    max_k: int = option(100, "Most items that one request can ask for.", low=1, high=1000)
    timeout_s: float = option(10.0, "Seconds after which a request is given up.", above=0.0)

    access_log: bool = option(True, "Whether each request has a line in the log.")

    def __post_init__(self) -> None:
        check(self)
        if not self.sessions:
            raise UserError("--sessions: empty; give the path of a SQLite file, or redis://HOST")

    @property
    def uses_redis(self) -> bool:
        """Whether sessions are kept in Redis or Valkey."""
        return self.sessions.startswith(REDIS)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The numbers of rows that device calls are padded to, ascending."""
        return (*(size for size in (1, 4, 8, 16, 32, 64) if size < self.max_batch), self.max_batch)
