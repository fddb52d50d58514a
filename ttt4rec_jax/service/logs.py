"""Logs as one JSON object a line on stderr. They hold ids, and neither clicks nor bodies."""

import asyncio
import contextlib
import functools
import json
import logging
import os
import sys
import time

KNOWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
FLUSH_S = 0.1


@functools.lru_cache(2)
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, event, the fields of `extra`, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        moment = _second(int(record.created))
        entry = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "process": record.process,
            **{name: value for name, value in vars(record).items() if name not in KNOWN},
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class AccessLog:
    """A line for each request, in the same form; lines of a moment are written together."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.process = os.getpid()

    def note(self, number: str, method: str, route: str, status: int, seconds: float) -> None:
        """Add a line. Called in an event loop; number, route: text that needs no escapes."""
        now = time.time()
        moment = _second(int(now))
        self.lines.append(
            f'{{"time": "{moment}.{int(now % 1 * 1000):03}Z", "level": "info", '
            f'"event": "request", "process": {self.process}, "request": "{number}", '
            f'"method": {json.dumps(method)}, "route": "{route}", "status": {status}, '
            f'"ms": {1e3 * seconds:.2f}}}\n'
        )
        if len(self.lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write the lines."""
        text = "".join(self.lines)
        self.lines.clear()
        with contextlib.suppress(OSError, ValueError):  # nobody reads the log any more
            sys.stderr.write(text)
            sys.stderr.flush()


def start(level: int = logging.INFO) -> None:
    """Write the records of every logger to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("jax", "orbax", "absl", "asyncio", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
