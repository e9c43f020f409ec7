"""A front's HTTP server: what it shows of the whole fleet, and all else passed on. The same runner
and the same limits against slow clients as a single proxy's."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiohttp import web

from proxy.api.body_budget import BodyBudget
from proxy.api.deadlines import DeadlineRunner
from proxy.api.hosts import own_names
from proxy.api.middleware import REQUEST_ID, new_id
from proxy.api.request_log import only_looks
from proxy.api.server import LONGEST_LINE, SHUTDOWN_S
from proxy.dialect.errors import Dialect, dialect_of, error_body, error_headers
from proxy.errors import NotFound, ProxyError
from proxy.fleet.front.answer import Answer
from proxy.fleet.front.asked import wanted_of
from proxy.fleet.front.body import RequestBody
from proxy.fleet.front.chooser import Chooser
from proxy.fleet.front.forward import Forward
from proxy.fleet.front.hung import HungWatch
from proxy.fleet.front.nodes import Nodes
from proxy.fleet.front.numbers import FrontNumbers
from proxy.node.identity import Identity
from proxy.node.names import HOSTS_HEADER, KEY_HEADER, NODE_HEADER
from proxy.observe.words import CLIENT_LEFT

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEEPALIVE_S: Final = 75.0
# Bodies of these are files, in which nothing is looked for.
FILES: Final = "/api/blobs/"
_USABLE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ID: web.RequestKey[str] = web.RequestKey("id", str)
_SPOKEN: web.RequestKey[dict[str, object]] = web.RequestKey("spoken", dict)


class Visitors:
    """How many requests are here."""

    def __init__(self) -> None:
        # What changes:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()

    def come(self) -> None:
        self.count += 1
        self._none.clear()

    def leave(self) -> None:
        self.count -= 1
        if not self.count:
            self._none.set()

    async def until_none(self) -> None:
        await self._none.wait()


@dataclass(frozen=True)
class Front:
    """What handlers work with. `pass_on` is the one for all that nobody else has."""

    nodes: Nodes
    chooser: Chooser
    forward: Forward
    numbers: FrontNumbers
    own: Mapping[str, str]  # what is said beside each request
    name: str | None = None  # of the node of this machine
    budget: BodyBudget = field(default_factory=BodyBudget)
    visitors: Visitors = field(default_factory=Visitors)
    # Set once nobody new is let in: who only follows is to leave.
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Have a node answer, whichever it is for. Raises ProxyError and ConnectionResetError."""
        body, answer = RequestBody(request, self.budget), Answer(request)
        try:
            is_file = request.path.startswith(FILES)
            if not is_file:
                await body.begin()
            wanted = wanted_of(
                request.method,
                request.path,
                request.rel_url.raw_query_string,
                request.headers,
                body.kept,
            )
            if wanted.models:
                request[_SPOKEN]["model"] = wanted.models[0]
            elif not (is_file or body.is_whole or wanted.item or wanted.home):
                # Any node would be asked, which may be one that has no such model.
                raise body.why_not_known()
            return await self.forward.pass_on(request, wanted, body, answer, request[_ID])
        except ProxyError as error:
            if answer.response is None:
                raise
            return await answer.fail(error)
        finally:
            request[_SPOKEN]["bytes_sent"] = answer.sent_bytes
            if answer.broken is not None:
                request[_SPOKEN]["broken"] = answer.broken
            body.release()


FRONT: web.AppKey[Front] = web.AppKey("front", Front)
# Each gives the application what it answers itself.
Part = Callable[[web.Application, Front], None]


def make_front(nodes: Nodes, identity: Identity, host: str) -> tuple[Front, HungWatch]:
    """`host`: where it is told to listen, which is a name of this machine."""
    own = {KEY_HEADER: identity.key.decode()} if identity.key else {}
    own[HOSTS_HEADER] = ",".join(sorted(own_names(host)))
    chooser, hung, numbers = Chooser(nodes), HungWatch(nodes), FrontNumbers()
    forward = Forward(nodes, chooser, hung, own, numbers)
    return Front(nodes, chooser, forward, numbers, own, identity.name), hung


def make_runner(front: Front, parts: Sequence[Part] = ()) -> web.AppRunner:
    app = web.Application(client_max_size=0, middlewares=[_observe])
    app[FRONT] = front
    for add in parts:
        add(app, front)
    app.router.add_route("*", "/{path:.*}", front.pass_on)
    app.on_response_prepare.append(_add_headers)
    return DeadlineRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        auto_decompress=False,
        max_line_size=LONGEST_LINE,
        max_field_size=LONGEST_LINE,
        keepalive_timeout=KEEPALIVE_S,
    )


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    if (request_id := request.get(_ID)) is not None:
        response.headers.setdefault(REQUEST_ID, request_id)


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An id, errors in the protocol's shape, and one line in the log."""
    given = request.headers.get(REQUEST_ID)
    request_id = given if given is not None and _USABLE_ID.fullmatch(given) else new_id()
    spoken: dict[str, object] = {}
    request[_ID], request[_SPOKEN] = request_id, spoken
    visitors = request.app[FRONT].visitors
    visitors.come()
    began_s, status, node = time.monotonic(), CLIENT_LEFT, None
    try:
        response = await _answered(request, handler)
        status, node = response.status, response.headers.get(NODE_HEADER)
        return response
    finally:
        visitors.leave()
        request.app[FRONT].budget.release(request)
        if node is not None:
            request.app[FRONT].numbers.passed_on(node, status)
        quiet = only_looks(request.method, request.path, status)
        (log.debug if quiet else log.info)(
            "request",
            method=request.method,
            path=request.path,
            status=status,
            duration_s=round(time.monotonic() - began_s, 6),
            request_id=request_id,
            **({"node": node} if node else {}),
            **spoken,
        )


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ProxyError as error:
        return error_response(request, error)
    except web.HTTPNotFound:  # of what is no path, as in OPTIONS *
        return error_response(request, NotFound(f"there is nothing at {request.path}"))
    except web.HTTPException:
        raise
    except ConnectionResetError:
        return web.Response(status=CLIENT_LEFT)  # nobody will see this
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("request_failed")
        if request.writer.output_size and request.transport is not None:
            request.transport.abort()
        return error_response(request, ProxyError("an internal error; the log has the details"))


def error_response(request: web.Request, error: ProxyError) -> web.Response:
    """An error of the front's own, in the protocol's shape."""
    anthropic = "anthropic-version" in request.headers and request.path.startswith("/v1/models")
    dialect: Dialect = "anthropic" if anthropic else dialect_of(request.path)
    return web.Response(
        status=error.status, body=error_body(error, dialect), headers=error_headers(error)
    )
