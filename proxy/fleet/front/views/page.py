"""The page, from the front itself: there is no data in it. What it shows it asks for as any client
does."""

from aiohttp import web

from proxy.api.ui import add_page
from proxy.fleet.front.views.asking import home, relay


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/ui/needs-key", needs_key)
    add_page(router)


async def needs_key(request: web.Request) -> web.StreamResponse:
    return await relay(request, await home(request))
