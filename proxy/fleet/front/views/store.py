"""Which models there are in the fleet is changed on its nodes: a new one is put on one of them, and
what is done to a file is done wherever it lies."""

from collections.abc import Iterable

import structlog
from aiohttp import web

from proxy.fleet.front.asked import Wanted
from proxy.fleet.front.away import comes_again
from proxy.fleet.front.newcomers import look_for
from proxy.fleet.front.nodes import FleetNode, Nodes
from proxy.fleet.front.views.answers import NobodyAnswers, text_of
from proxy.fleet.front.views.asking import ACTS_S, VIEWS, add_heads, ask_all, home, relay, wanted
from proxy.fleet.front.views.bodies import fields_of, name_in, read_small_body
from proxy.fleet.state import Node

log = structlog.get_logger()


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_post("/api/pull", pull)
    router.add_post("/api/create", create)
    router.add_post("/api/copy", copy)
    router.add_delete("/api/delete", delete)


async def pull(request: web.Request) -> web.StreamResponse:
    """To the node that the client names; else where it is already, to be made new; else where there
    is most room."""
    body = await read_small_body(request)
    name = name_in(fields_of(body), "model", "name")
    node = wanted(request)
    why = "the client names it"
    if node is None:
        await look_for(request.app[VIEWS].nodes, [name])
        node, why = roomiest(request.app[VIEWS].nodes, name)
    log.info("pull_goes_to", node=node.name, model=name, why=why)
    return await relay(request, node, body=body)


async def create(request: web.Request) -> web.StreamResponse:
    """Where the model is that it is made from; of files, where any front has passed those on to."""
    body = await read_small_body(request)
    fields = fields_of(body)
    base = name_in(fields, "from")
    node, front = wanted(request), request.app[VIEWS].front
    if node is None and base and not fields.get("files"):
        await look_for(request.app[VIEWS].nodes, [base])
        node = next(iter(with_file(request.app[VIEWS].nodes, base)), None)
        if node is None and (away := request.app[VIEWS].nodes.away_with(base)):
            raise comes_again(base, away)  # another one would look for it elsewhere
    if node is None and (chosen := front.chooser.choose(Wanted(home="files"), None, ())):
        node = chosen.node
    return await relay(request, node or await home(request), body=body)


async def copy(request: web.Request) -> web.StreamResponse:
    return await _wherever_it_is(request, "source")


async def delete(request: web.Request) -> web.StreamResponse:
    return await _wherever_it_is(request, "model", "name")


async def _wherever_it_is(request: web.Request, *keys: str) -> web.StreamResponse:
    body = await read_small_body(request)
    node = wanted(request)
    name = name_in(fields_of(body), *keys)
    await look_for(request.app[VIEWS].nodes, [name])
    nodes = request.app[VIEWS].nodes
    asked = [node] if node else [each for each in nodes if each.models.find(name) is not None]
    if not asked:
        if away := nodes.away_with(name):
            raise comes_again(name, away)
        asked = [await home(request)]
    answers = await ask_all(request, nodes=asked, body=body, within_s=ACTS_S, read=text_of)
    response = web.Response()
    add_heads(response, answers)
    return response


def with_file(nodes: Nodes, name: str) -> list[FleetNode]:
    """Those that answer and have it."""
    return [node for node in nodes.answering() if node.models.find(name) is not None]


def roomiest(nodes: Nodes, name: str) -> tuple[FleetNode, str]:
    """Where a model of unknown size is best, and why. Raises NobodyAnswers."""
    there = [node for node in nodes.answering() if not node.draining]
    if not there:
        raise NobodyAnswers("no machine of the fleet takes anything new", retry_after_s=1.0)
    have = [node for node in there if node.models.find(name) is not None]
    known = nodes.fleet.nodes
    found = most_room(known[node.name] for node in have or there if node.name in known)
    node = nodes.get(found.name) if found else None
    why = "it has it already" if have else "it has the most memory that could be had"
    return node or there[0], why


def most_room(nodes: Iterable[Node]) -> Node | None:
    """The one that could give most of its memory to a new model. Pure."""
    return max(nodes, key=lambda node: (_room(node), node.name), default=None)


def _room(node: Node) -> int:
    return node.free_bytes + node.movable_bytes + node.idle_bytes
