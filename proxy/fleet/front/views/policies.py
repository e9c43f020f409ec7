"""The policy files of a fleet: read and written on one node. They are the same on each, and what is
written there comes to the others by itself."""

from aiohttp import web

from proxy.fleet.front.views.asking import home, relay


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_route("*", "/admin/policies/{rest:.+}", policies)


async def policies(request: web.Request) -> web.StreamResponse:
    body = request.content.iter_any() if request.can_read_body else None
    return await relay(request, home(request), body=body)
