"""Puts the routes together and serves them: the same application, runner and settings for
production and tests.
"""

import socket

from aiohttp import web

from proxy.api import (
    admin,
    llama_swap,
    metrics,
    middleware,
    models,
    ollama,
    ollama_models,
    passthrough,
)
from proxy.api.services import SERVICES, Services

# How long a client may take to read the rest of an answer once its handler has been told to end.
SHUTDOWN_S = 2.0


def make_app(services: Services) -> web.Application:
    # Bodies are limited where they are read: the limit is a policy, and may change at any time.
    app = web.Application(
        client_max_size=0,
        middlewares=[middleware.observe, middleware.errors],
    )
    app[SERVICES] = services
    for part in (passthrough, models, admin, llama_swap, metrics, ollama_models):
        part.add_routes(app.router)
    ollama.add_routes(app.router)
    app.cleanup_ctx.append(ollama_models.hub_context)
    return app


def make_runner(services: Services) -> web.AppRunner:
    """A runner with the settings that matter: without `handler_cancellation` a client that leaves
    would
    not end its generation, and aiohttp's test server has another default than its runner."""
    return web.AppRunner(
        make_app(services),
        handler_cancellation=True,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=75.0,
    )


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets for all addresses of `host`. Raises OSError; nothing is left open then."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(
            socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(1024)
            sock.setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
