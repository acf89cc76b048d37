"""Server: one gateway on one port, from its first request to its last."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys

import uvicorn
from starlette.applications import Starlette

from cluster.client.gateway_options import GatewayOptions
from cluster.errors import ClusterError
from cluster.gateway.app import Gateway
from cluster.gateway.connection import Connection
from cluster.gateway.guard import Admission
from cluster.gateway.keys import Keys
from cluster.gateway.served import Served
from cluster.home import Home

DRAIN_S = 5
"""How long answers may go on after the end was asked for; then their connections break, which clients notice."""

BACKLOG = 512


async def serve(home: Home, options: GatewayOptions) -> None:
    """Serve until standard input closes or a signal comes. The first line on standard output says the port, as JSON.

    If it cannot listen there, that line says why, and it ends.
    """
    served = Served(home)
    keys = Keys(home.api_keys) if options.needs_key else None
    gateway = Gateway(served, Admission(keys, options.allowed_hosts, options.origins), exact=options.exact)
    try:
        bound = bind(options)
    except ClusterError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    server = uvicorn.Server(config_of(gateway.app(options.origins), options))
    watching = asyncio.create_task(_end_with_parent(server))
    try:
        print(json.dumps({"port": bound.getsockname()[1]}), flush=True)
        await server.serve([bound])
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await served.close()


def config_of(app: Starlette, options: GatewayOptions) -> uvicorn.Config:
    """Return how uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN_S,
        ssl_certfile=options.certificate or None,
        ssl_keyfile=options.key or None,
        lifespan="off",
    )


def bind(options: GatewayOptions) -> socket.socket:
    """Return a socket that listens already, since whoever is told the port connects at once.

    Raises:
        ClusterError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((options.host, options.port))
        bound.listen(BACKLOG)
    except OSError as exc:
        bound.close()
        raise ClusterError(
            f"{options.host}:{options.port} cannot be used: {exc.strerror}; --port 0 takes a free port"
        ) from exc
    return bound


async def _end_with_parent(server: uvicorn.Server) -> None:
    """End when standard input closes: then the daemon that started this process is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(1024):
            pass
        server.should_exit = True
    finally:
        transport.close()
