"""`GET /metrics`: the numbers of `proxy.observe.metrics` in Prometheus' text format."""

from aiohttp import web

from proxy.api.services import SERVICES

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/metrics", get_metrics)


async def get_metrics(request: web.Request) -> web.Response:
    text = request.app[SERVICES].metrics.text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})
