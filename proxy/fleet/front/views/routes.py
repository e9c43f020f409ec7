"""What a front answers itself, put together: what there is in the whole fleet, and what is done to
it."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiohttp import web

from proxy.fleet.front.server import Front
from proxy.fleet.front.views import admin, listing, logs, models, page, policies, store
from proxy.fleet.front.views.answers import PassedOn
from proxy.fleet.front.views.asking import VIEWS, Views, as_it_is
from proxy.fleet.front.views.known import KnownNodes
from proxy.fleet.front.views.live import FleetLive
from proxy.observe.events import EventLog
from proxy.tasks import spawn

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_views(app: web.Application, front: Front) -> None:
    """`proxy.fleet.front.server.Part`."""
    known = KnownNodes(front.nodes)
    # What happens on nodes is in their own logs.
    live = FleetLive(EventLog(logged=False), known, lambda: front.name)
    front.nodes.hear(partial(_hear, live))
    app[VIEWS] = Views(front, known, live, time.monotonic())
    for part in (listing, admin, models, policies, store, logs, page):
        part.add_routes(app.router)
    app.middlewares.append(_passed_on)
    app.cleanup_ctx.append(_telling)


async def _telling(app: web.Application) -> AsyncIterator[None]:
    """As long as the application is there."""
    views = app[VIEWS]
    tasks = [spawn(views.live.run(), name="live"), spawn(_leave(views), name="leave")]
    yield
    for task in tasks:
        task.cancel()


async def _leave(views: Views) -> None:
    """Those who follow come to an end before others are waited for."""
    await views.front.leaving.wait()
    views.live.draining = True
    views.live.everything()  # which says so
    views.live.events.close()


def _hear(live: FleetLive, node: str, kind: str, fields: Mapping[str, Any]) -> None:
    """What has changed is seen at the next look; what has happened is told."""
    if kind != "state" and "patch" not in fields:
        live.happened(node, {**fields, "kind": kind})


@web.middleware
async def _passed_on(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PassedOn as answer:
        return as_it_is(answer.said)
