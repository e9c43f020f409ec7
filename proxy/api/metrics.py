"""`GET /metrics`: the numbers of `proxy.observe.metrics` in Prometheus' text format."""

import asyncio
from importlib import import_module

from aiohttp import web

from proxy.api.services import SERVICES

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/metrics", get_metrics)


async def get_metrics(request: web.Request) -> web.Response:
    # Loaded by the first scrape, which takes some 30 ms: not on the event loop.
    await asyncio.to_thread(import_module, "proxy.observe.exposition")
    text = request.app[SERVICES].metrics.text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})
