"""An HTTP worker: a process that server.py starts. Imports no JAX.

python -m ttt4rec_jax.service.worker SETTINGS, where SETTINGS is JSON: the fields of ServiceConfig,
the descriptor of the listening socket, and the path of the device process's Unix socket.
"""

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI

from ttt4rec_jax.service import logs
from ttt4rec_jax.service.app import make_app
from ttt4rec_jax.service.link import SocketLink
from ttt4rec_jax.service.requests import Link
from ttt4rec_jax.service.settings import API_KEY, ServiceConfig


def main(settings: str) -> None:
    """Answer requests until SIGTERM, or until the device process is gone."""
    fields = json.loads(settings)
    config = ServiceConfig(**fields["config"])
    logs.start()
    links: list[Link] = []
    leaving = False

    @contextlib.asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        nonlocal leaving
        loop = asyncio.get_running_loop()
        transport, link = await loop.create_unix_connection(
            lambda: SocketLink(lost), fields["link"]
        )
        links.append(link)
        yield
        leaving = True
        transport.close()
        if app.log:
            app.log.flush()

    def lost() -> None:
        if not leaving:  # what is in flight is answered by a problem
            os.kill(os.getpid(), signal.SIGTERM)

    app = make_app(config, lambda: links[0], os.environ.get(API_KEY, ""), lifespan)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            timeout_graceful_shutdown=math.ceil(config.timeout_s) + 2,
        )
    )
    server.run(sockets=[socket.socket(fileno=fields["listener"])])


if __name__ == "__main__":
    main(sys.argv[1])
