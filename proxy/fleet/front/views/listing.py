"""The lists of all nodes: models, what is loaded, metrics; and whether the fleet is well."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web
from prometheus_client.metrics_core import Metric

from proxy.api.metrics import CONTENT_TYPE
from proxy.api.wire import json_response
from proxy.fleet.front.views import exposition, lists
from proxy.fleet.front.views.answers import Said, understood
from proxy.fleet.front.views.asking import VIEWS, add_heads, ask_all, merged, relay, wanted

Merge = Callable[[Mapping[str, Mapping[str, Any]]], dict[str, Any]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LISTS: Final[tuple[tuple[str, Merge], ...]] = (
    ("/v1/models", lists.models),
    ("/models", lists.models),
    ("/api/tags", lists.tags),
    ("/api/ps", lists.ps),
    ("/running", lists.running),
)


def add_routes(router: web.UrlDispatcher) -> None:
    for path, merge in LISTS:
        router.add_get(path, _listing(merge))
    router.add_get("/metrics", metrics)
    router.add_get("/health", health)
    router.add_get("/v1/health", health)


def _listing(merge: Merge) -> Handler:
    async def listing(request: web.Request) -> web.StreamResponse:
        answers = await ask_all(request, method="GET", read=understood(merge))
        return merged(answers, merge(answers.read))

    return listing


async def metrics(request: web.Request) -> web.StreamResponse:
    """All nodes', each number with its node, and the front's own."""
    views = request.app[VIEWS]
    answers = await ask_all(request, method="GET", read=_parsed)
    views.front.numbers.count_nodes(views.nodes)
    text = exposition.text([*exposition.merged(answers.read), *views.front.numbers.metrics()])
    response = web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})
    add_heads(response, answers)
    return response


def _parsed(said: Said) -> list[Metric]:
    """Raises ValueError."""
    return exposition.parsed(said.body.decode())


async def health(request: web.Request) -> web.StreamResponse:
    """Well, while any node answers: others may do what a node that is gone did."""
    if node := wanted(request):
        return await relay(request, node)
    views = request.app[VIEWS]
    if views.live.draining:
        return json_response({"status": "draining"}, status=503)
    there = any(not node.draining for node in views.nodes.answering())
    return json_response(
        {"status": "ok" if there else "no node answers"}, status=200 if there else 503
    )
