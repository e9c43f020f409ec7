"""Asks nodes on behalf of a client: with its own headers, so that each node says whether it may."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp
import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from proxy.api.middleware import WARNING
from proxy.api.wire import BACKEND_HEADER, json_response
from proxy.errors import reason_of
from proxy.fleet.front.ids import of_fleet
from proxy.fleet.front.nodes import FleetNode, Nodes
from proxy.fleet.front.server import Front
from proxy.fleet.front.views.answers import (
    Answers,
    NobodyAnswers,
    Said,
    sorted_out,
    table_of,
)
from proxy.fleet.front.views.known import KnownNodes
from proxy.fleet.front.views.live import FleetLive
from proxy.node.names import (
    CLIENT_HEADER,
    DRAINING_HEADER,
    KEY_HEADER,
    NODE_HEADER,
    OWN_HEADER,
    REFUSES_HEADER,
)
from proxy.tasks import spawn
from proxy.upstream.call import HOP_BY_HOP, end_to_end

log = structlog.get_logger()

# A list is shown without those who have not said theirs by then.
LISTS_S: Final = 2.0
# Loading a large model from a slow disk takes so long, and so may the end of an answer.
ACTS_S: Final = 1800.0
# A node that says nothing for so long does not go on with what it was asked for.
GONE_S: Final = 10.0
# Of the way between the client and us: the way from us to a node has its own.
NOT_ON: Final = HOP_BY_HOP.union(("content-length", "accept-encoding", "expect"))
NOT_BACK: Final = HOP_BY_HOP.union(
    ("content-length", "content-encoding", "date", "server"),
    (DRAINING_HEADER.lower(), REFUSES_HEADER.lower()),
)
# What tells browsers whether a page may read an answer: each node says the same of the same page.
FOR_PAGES: Final = ("access-control-", "vary")
CHUNK_BYTES: Final = 1 << 16


class News(Protocol):
    async def until_news(self) -> None: ...


class Answering(Protocol):
    @property
    def answers(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Views:
    """What the handlers work with."""

    front: Front
    known: KnownNodes
    live: FleetLive
    started_s: float

    @property
    def nodes(self) -> Nodes:
        return self.front.nodes


VIEWS = web.AppKey("views", Views)


def node_named(request: web.Request, name: str) -> FleetNode:
    """Raises NotFound for none of the fleet, Busy for one that has left lately, and NobodyAnswers
    for one that is silent."""
    node = request.app[VIEWS].nodes.named(name)
    if not node.answers:
        raise NobodyAnswers(f"{name} does not answer", retry_after_s=1.0)
    return node


def wanted(request: web.Request) -> FleetNode | None:
    """The node that a client names, and no other. Raises as `node_named`."""
    name = request.headers.get(NODE_HEADER)
    return None if name is None else node_named(request, name)


def those(request: web.Request) -> list[FleetNode]:
    """Who is to be asked: all that there are, whether they answer or not, or the one named."""
    node = wanted(request)
    return [node] if node else list(request.app[VIEWS].nodes)


async def until_known(nodes: Nodes) -> None:
    """Return once it is known of all nodes whether they answer, as it is a moment after the start
    of a front; or after a while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LISTS_S):
            while not list(nodes) or not all(node.follower.was_tried for node in nodes):
                await nodes.until_news()


async def home(request: web.Request) -> FleetNode:
    """The node for what is the same on each: the one named, else the front's own, else the first
    that answers. Raises NobodyAnswers."""
    views = request.app[VIEWS]
    await until_known(views.nodes)
    if node := wanted(request):
        return node
    there = views.nodes.answering()
    for node in there:
        if node.name == views.front.name:
            return node
    if not there:
        raise NobodyAnswers("no machine of the fleet answers", retry_after_s=1.0)
    return there[0]


async def ask(
    request: web.Request,
    node: FleetNode,
    target: str | None = None,
    *,
    method: str | None = None,
    body: bytes | None = None,
    within_s: float = LISTS_S,
) -> Said:
    """What one node says to what the client has asked, or to a question in its name. `body` is
    unpacked."""
    if not node.answers:
        return Said(node.name, why="does not answer")
    try:
        async with (
            _while_there(request, node, within_s),
            asked(request, node, target, method or request.method, body) as answer,
        ):
            return Said(node.name, answer.status, answer.headers, await answer.read())
    except (OSError, aiohttp.ClientError) as error:
        return Said(node.name, why=reason_of(error))


async def ask_all(
    request: web.Request,
    target: str | None = None,
    *,
    nodes: Iterable[FleetNode] | None = None,
    method: str | None = None,
    body: bytes | None = None,
    within_s: float = LISTS_S,
    read: Callable[[Said], Any] = table_of,
) -> Answers:
    """What all say at once, as `read` reads it. Raises PassedOn and NobodyAnswers."""
    await until_known(request.app[VIEWS].nodes)
    there = those(request) if nodes is None else nodes
    told = await asyncio.gather(
        *(ask(request, node, target, method=method, body=body, within_s=within_s) for node in there)
    )
    return sorted_out(told, read)


async def relay(
    request: web.Request,
    node: FleetNode,
    target: str | None = None,
    *,
    body: bytes | None = None,
) -> web.StreamResponse:
    """One node's answer, as it comes. Raises NobodyAnswers where there is none."""
    response: web.StreamResponse | None = None
    try:
        async with (
            _while_there(request, node),
            asked(request, node, target, body=body) as answer,
        ):
            response = web.StreamResponse(status=answer.status)
            response.headers.extend(_back(node.name, answer.headers))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
    except (TimeoutError, aiohttp.ClientError) as error:
        log.warning("node_broke_off", node=node.name, path=request.path, why=reason_of(error))
        if response is not None and response.prepared:
            if request.transport is not None:
                request.transport.abort()  # the client has to see that it ends too early
            return response
        why = f"{node.name} does not answer: {reason_of(error)}"
        raise NobodyAnswers(why, retry_after_s=1.0) from error


@asynccontextmanager
async def _while_there(
    request: web.Request, node: FleetNode, within_s: float | None = None
) -> AsyncIterator[None]:
    """Raises TimeoutError in the block after so long, or once the node is silent for good: one
    that loads a model or pulls one may take its time."""
    async with asyncio.timeout(within_s) as limit:
        watch = spawn(until_gone(request.app[VIEWS].nodes, node, limit), name="watch of a node")
        try:
            yield
        finally:
            watch.cancel()


async def until_gone(nodes: News, node: Answering, limit: asyncio.Timeout) -> None:
    """Have `limit` expire once `node` has been silent for GONE_S."""
    loop = asyncio.get_running_loop()
    heard_s = loop.time()
    while loop.time() - heard_s < GONE_S:
        with suppress(TimeoutError):
            async with asyncio.timeout(GONE_S / 10):
                await nodes.until_news()
        if node.answers:
            heard_s = loop.time()
    limit.reschedule(0)


def merged(answers: Answers, value: Any) -> web.Response:
    """One answer of all, which says who is left out."""
    response = json_response(value)
    add_heads(response, answers)
    return response


def add_heads(response: web.StreamResponse, answers: Answers) -> None:
    if answers.warning:
        response.headers[WARNING] = answers.warning
    for said in answers.good.values():
        for name, text in said.headers.items():
            if name.lower().startswith(FOR_PAGES):
                response.headers[name] = text
        return


def as_it_is(said: Said) -> web.Response:
    """A node's answer for the client. Raises NobodyAnswers where there is none."""
    if not said.status:
        raise NobodyAnswers(f"{said.node} does not answer: {said.why}", retry_after_s=1.0)
    return web.Response(status=said.status, body=said.body, headers=_back(said.node, said.headers))


def own_headers(request: web.Request) -> CIMultiDict[str]:
    """The client's own, with what the fleet says beside them, and nobody else may."""
    ours = KEY_HEADER.lower()
    pairs = end_to_end(request.headers, NOT_ON)
    found = CIMultiDict(pair for pair in pairs if not pair[0].lower().startswith(ours))
    found.extend(request.app[VIEWS].front.own)
    found[OWN_HEADER] = "0"  # what the fleet asks itself has another one
    found[CLIENT_HEADER] = f"{request.remote or ''} {id(request.protocol):x}"
    return found


@asynccontextmanager
async def asked(
    request: web.Request,
    node: FleetNode,
    target: str | None = None,
    method: str | None = None,
    body: bytes | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A node's answer to what the client has asked. Raises OSError and ClientError."""
    headers = own_headers(request)
    headers.popall(hdrs.CONTENT_ENCODING, None)
    url = URL(node.link.url + (target or request.rel_url.raw_path_qs), encoded=True)
    async with request.app[VIEWS].nodes.session.request(
        method or request.method,
        url,
        headers=headers,
        data=body or None,
        allow_redirects=False,
        skip_auto_headers=("User-Agent", "Accept", "Content-Type", "Accept-Encoding"),
    ) as answer:
        yield answer


def _back(node: str, headers: Any) -> CIMultiDict[str]:
    found = CIMultiDict(
        (name, text) for name, text in headers.items() if name.lower() not in NOT_BACK
    )
    if its := found.get(BACKEND_HEADER):
        found[BACKEND_HEADER] = of_fleet(node, its)
    found[NODE_HEADER] = node
    return found
