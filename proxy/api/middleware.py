"""What every request goes through: an id, errors in the protocol's shape, who may ask at all, the
API key, and one log line.
"""

import random
import re
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import hdrs, web

from proxy.api.cors import ALLOWED_ORIGIN, is_preflight, preflight_headers
from proxy.api.refused import refusal_headers
from proxy.api.request_log import REQUEST_LOG, RequestLog, only_looks
from proxy.api.scopes import needs_admin
from proxy.api.services import SERVICES
from proxy.api.traced import begin_span, end_span
from proxy.api.wire import BACKEND_HEADER
from proxy.dialect.errors import Dialect, dialect_of, error_body, error_headers
from proxy.errors import BadRequest, MethodNotAllowed, NotFound, ProxyError, Unauthorized
from proxy.node.names import DRAINING_HEADER, KEY_HEADER, NODE_HEADER
from proxy.observe.words import CLIENT_LEFT

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = "X-Request-Id"
WARNING = "X-Moe-Proxy-Warning"
_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN_PATHS = frozenset({"/health", "/v1/health"})
SHARED = "/v1/models"  # by clients of OpenAI's and of Anthropic's
# The page has no data in it, and asks for a key itself.
PAGE = "/ui"


KEY_NAME: web.RequestKey[str] = web.RequestKey("key_name", str)
# The fleet itself asks, and nobody through it.
OWN: web.RequestKey[bool] = web.RequestKey("own", bool)


def new_id() -> str:
    """Unlike any other, which is all that it has to be; a UUID would ask the kernel each time."""
    return f"{random.getrandbits(64):016x}"


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Said by every answer, when its head is sent: also by streams and errors."""
    request_log = request[REQUEST_LOG]
    response.headers[REQUEST_ID] = request_log.id
    if request_log.warnings:
        response.headers[WARNING] = "; ".join(request_log.warnings)
    services = request.app[SERVICES]
    if services.node.name is not None and services.node.knows(request.headers):
        response.headers[NODE_HEADER] = services.node.name
        if services.node.key is not None and services.pool.draining:
            response.headers[DRAINING_HEADER] = "1"


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: binds the request's id for all log lines below, and writes the one line at the
    end.
    """
    given = request.headers.get(REQUEST_ID)
    request_id = given if given is not None and _USABLE_ID.fullmatch(given) else new_id()
    # Each request has a task of its own, so nothing of an earlier one is bound.
    structlog.contextvars.bind_contextvars(request_id=request_id)
    request_log = request[REQUEST_LOG] = RequestLog(request_id)
    begin_span(request, request_log)
    status = CLIENT_LEFT
    try:
        answer = await handler(request)
        status = answer.status
        return answer
    finally:
        if status == CLIENT_LEFT and request_log.ended is not None:
            status = request_log.ended  # it left once it had all of it
        request.app[SERVICES].bodies.release(request)
        _count(request, request_log, request_log.failed or status)
        end_span(request_log, status)
        quiet = only_looks(request.method, request.path, status)
        (log.debug if quiet else log.info)(
            "request",
            method=request.method,
            path=request.path,
            status=status,
            duration_s=round(time.monotonic() - request_log.started_s, 6),
            **request_log.known(),
        )


def _count(request: web.Request, request_log: RequestLog, status: int) -> None:
    resource = request.match_info.route.resource
    # What clients make up must not fill the memory.
    request.app[SERVICES].metrics.count(
        resource.canonical if resource else "",
        (request_log.model or "") if request_log.found else "",
        status,
        request_log.bytes_sent,
        request_log.first_byte_s,
        request_log.spent,
    )


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error into an answer of the protocol that was spoken."""
    try:
        return await handler(request)
    except ProxyError as error:
        return error_response(request, error)
    except RecursionError:
        # Of a part of the body, after the whole of it just passed: nothing of ours goes so deep.
        return error_response(request, BadRequest("the body is nested too deep"))
    except web.HTTPMethodNotAllowed as refusal:
        allowed = ", ".join(sorted(refusal.allowed_methods))
        refused = MethodNotAllowed(
            f"{request.method} is not allowed on {request.path}; use {allowed}"
        )
        answer = error_response(request, refused)
        answer.headers["Allow"] = allowed
        return answer
    except web.HTTPNotFound:
        return error_response(request, NotFound(f"there is nothing at {request.path}"))
    except web.HTTPException:
        raise
    except ConnectionResetError:
        return web.Response(
            status=CLIENT_LEFT
        )  # it left while we were writing: nobody will see this
    except Exception:
        log.exception("request_failed")
        if request.writer.output_size and request.transport is not None:
            # Half an answer has no place for another: the client has to see that it ends too early.
            request.transport.abort()
        return error_response(request, ProxyError("an internal error; the log has the details"))


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets in who may: in a fleet nobody but the fleet, no page of a stranger, and then whoever has
    a key that may. Raises Forbidden, Unauthorized and TooManyRequests."""
    services = request.app[SERVICES]
    if not services.node.knows(request.headers):
        raise Unauthorized(f"this is a machine of a fleet, which has a key ({KEY_HEADER})")
    if services.node.is_own(request.headers):
        request[OWN] = True
        return await handler(request)
    server = services.policies.current.server
    services.strangers.check(request, server, services.node.hosts(request.headers))
    if origin := request.headers.get(hdrs.ORIGIN):
        request[ALLOWED_ORIGIN] = origin
        # Browsers ask this without a key.
        if is_preflight(request.method, request.headers):
            return web.Response(status=204, headers=preflight_headers(request.headers))
    if server.api_keys_file is not None and not _is_open(request.path):
        resource = request.match_info.route.resource
        route = resource.canonical if resource else ""
        key = services.keys.check(
            request.headers,
            server.api_keys_file,
            admin=needs_admin(request.method, route, request.rel_url.raw_path),
        )
        if key is not None:
            request[KEY_NAME] = key
    return await handler(request)


def _dialect_of(request: web.Request) -> Dialect:
    """Whose errors the client understands. OpenAI and Anthropic share the path of models;
    Anthropic's clients say what they are."""
    if "anthropic-version" in request.headers and request.path.startswith(SHARED):
        return "anthropic"
    return dialect_of(request.path)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path == PAGE or path.startswith(f"{PAGE}/")


def error_response(request: web.Request, error: ProxyError) -> web.Response:
    headers = {**error_headers(error), **refusal_headers(request, error)}
    if error.by_engine and (backend := request[REQUEST_LOG].backend):
        headers[BACKEND_HEADER] = backend
    body = error_body(error, _dialect_of(request))
    return web.Response(status=error.status, body=body, headers=headers)
