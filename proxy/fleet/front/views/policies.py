"""The policy files of a fleet: read and written on one node. They are the same on each, and what is
written there comes to the others by itself."""

from aiohttp import web

from proxy.fleet.front.views.asking import home, relay
from proxy.fleet.front.views.bodies import read_small_body


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_route("*", "/admin/policies/{rest:.+}", policies)


async def policies(request: web.Request) -> web.StreamResponse:
    return await relay(request, await home(request), body=await read_small_body(request))
