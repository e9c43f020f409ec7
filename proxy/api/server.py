"""Puts the routes together and serves them: the same application, runner and settings for
production and tests.
"""

from aiohttp import web

from proxy.api import (
    admin,
    admin_policies,
    cors,
    embeddings,
    llama_swap,
    metrics,
    middleware,
    models,
    nameless,
    passthrough,
    ui,
)
from proxy.api.deadlines import DeadlineRunner
from proxy.api.ollama import library, routes
from proxy.api.openai import responses
from proxy.api.services import SERVICES, Services

# How long a client may take to read the rest of an answer once its handler has been told to end.
SHUTDOWN_S = 2.0
# Of an address or a header: browsers send to one port of a machine what all others left there.
LONGEST_LINE = 1 << 16


def make_app(services: Services) -> web.Application:
    # Bodies are limited where they are read: the limit is a policy, and may change at any time.
    app = web.Application(
        client_max_size=0,
        middlewares=[middleware.observe, middleware.errors, middleware.admit],
    )
    app.on_response_prepare.append(cors.add_headers)
    app.on_response_prepare.append(middleware.add_headers)
    app[SERVICES] = services
    passthrough.add_routes(app.router, {embeddings.PATH: embeddings.special})
    parts = (nameless, responses, models, admin, admin_policies, llama_swap, metrics, library, ui)
    for part in parts:
        part.add_routes(app.router)
    routes.add_routes(app.router)
    app.cleanup_ctx.append(admin.live_context)
    app.cleanup_ctx.append(library.hub_context)
    app.on_shutdown.append(library.end_jobs)
    return app


def make_runner(services: Services) -> web.AppRunner:
    """A runner with the settings that matter: without `handler_cancellation` a client that leaves
    would not end its generation, and aiohttp's test server has another default than its runner."""
    return DeadlineRunner(
        make_app(services),
        handler_cancellation=True,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        knows=services.node.knows,
        auto_decompress=False,  # what is wrong with a body is told by whoever reads it
        max_line_size=LONGEST_LINE,
        max_field_size=LONGEST_LINE,
        keepalive_timeout=75.0,
    )
