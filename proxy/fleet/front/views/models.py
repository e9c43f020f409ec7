"""What is done to a model of the fleet: by the node that is best for it, or by all that have it
loaded."""

from collections.abc import Collection
from dataclasses import replace
from secrets import token_bytes
from typing import Any

from aiohttp import web

from proxy.api.wire import json_response
from proxy.fleet.choice import Asked, choose
from proxy.fleet.front.asked import OPTIONS
from proxy.fleet.front.away import comes_again
from proxy.fleet.front.ids import marked_with_id, of_fleet
from proxy.fleet.front.newcomers import look_for
from proxy.fleet.front.nodes import FleetNode, Nodes
from proxy.fleet.front.picture import Model
from proxy.fleet.front.views.admin import backend_of
from proxy.fleet.front.views.answers import Answers, Said, table_of, text_of
from proxy.fleet.front.views.asking import (
    ACTS_S,
    VIEWS,
    add_heads,
    as_it_is,
    ask,
    ask_all,
    home,
    merged,
    until_known,
    wanted,
)
from proxy.fleet.front.views.bodies import read_small_body
from proxy.node.names import REFUSES_HEADER


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/unload", unload_all)
    router.add_get("/admin/models/{name:.+}/plan", plan)
    router.add_post("/admin/models/{name:.+}/load", load)
    router.add_post("/admin/models/{name:.+}/unload", unload)
    router.add_post("/admin/models/{name:.+}/pin", pin)
    router.add_post("/admin/models/{name:.+}/unpin", pin)
    router.add_put("/admin/models/{name:.+}/split", put_split)


async def load(request: web.Request) -> web.StreamResponse:
    """On the best node that can."""
    tried: set[str] = set()
    first: Said | None = None
    while (node := await best(request, request.match_info["name"], tried)).name not in tried:
        said = await ask(request, node, within_s=ACTS_S)
        if said.status and REFUSES_HEADER not in said.headers:
            return backend_of(said)
        tried.add(node.name)
        first = first or said  # of the one that was best
    assert first is not None
    return as_it_is(first)


async def plan(request: web.Request) -> web.StreamResponse:
    """Where it would go: on which node, and on what of that."""
    node = await best(request, request.match_info["name"])
    said = await ask(request, node, within_s=ACTS_S)
    if not said.is_good:
        return as_it_is(said)
    return json_response({**table_of(said), "node": node.name})


async def unload(request: web.Request) -> web.StreamResponse:
    answers = await _ask_holders(request)
    return merged(answers, {"unloaded": sum(said["unloaded"] for said in answers.read.values())})


async def pin(request: web.Request) -> web.StreamResponse:
    answers = await _ask_holders(request)
    pinned = any(said["pinned"] for said in answers.read.values())
    ids = [of_fleet(node, its) for node, said in answers.read.items() for its in said["backends"]]
    return merged(answers, {"pinned": pinned, "backends": ids})


async def put_split(request: web.Request) -> web.StreamResponse:
    answers = await _ask_holders(request, await read_small_body(request))
    found = [
        marked_with_id(node, each)
        for node, said in answers.read.items()
        for each in said["backends"]
    ]
    return merged(answers, {"backends": found})


async def unload_all(request: web.Request) -> web.StreamResponse:
    """In llama-swap's words."""
    answers = await ask_all(request, method="GET", within_s=ACTS_S, read=text_of)
    response = web.Response(text=next(iter(answers.read.values())))
    add_heads(response, answers)
    return response


async def _ask_holders(request: web.Request, body: bytes | None = None) -> Answers:
    """All nodes that have it loaded, or have failed to; where none has, one says so."""
    nodes = request.app[VIEWS].nodes
    name = request.match_info["name"]
    node = wanted(request)
    asked = [node] if node else holders(nodes, name) or [await home(request)]
    return await ask_all(request, nodes=asked, body=body, within_s=ACTS_S)


def find(nodes: Nodes, name: str) -> Model | None:
    """The model of a name, which may say too how it is to be loaded."""
    return nodes.find(name) or nodes.find(name.partition(OPTIONS)[0])


async def best(request: web.Request, name: str, without: Collection[str] = ()) -> FleetNode:
    """The node that a request for this model would go to, of others than those `without` if there
    are such; for one that nobody knows one that says so. Raises NotFound, NobodyAnswers, and Busy
    where only nodes have it that cannot be asked."""
    await until_known(request.app[VIEWS].nodes)
    if node := wanted(request):
        return node
    nodes = request.app[VIEWS].nodes
    await look_for(nodes, [name])
    if model := find(nodes, name):
        key = token_bytes(16)
        asked = Asked(model.name, key, least_bytes=model.least_bytes, without=without)
        choice = choose(nodes.fleet, asked) or choose(nodes.fleet, replace(asked, without=()))
        if choice and (node := nodes.get(choice.node)):
            return node
    elif away := nodes.away_with(name.partition(OPTIONS)[0]):
        raise comes_again(name, away)
    return await home(request)


def holders(nodes: Nodes, name: str) -> list[FleetNode]:
    """The nodes that may have it loaded: those with its file, and those that tell of a backend of
    it, whose file may be gone. Which of them have it is theirs to say: what a front knows is a
    moment old."""
    found = []
    for node in nodes:
        model = node.models.find(name) or node.models.find(name.partition(OPTIONS)[0])
        backends: Any = node.state.get("backends") or {}
        if model or any(each.get("model") == name for each in backends.values()):
            found.append(node)
    return found
