"""What a node of a fleet says to a front beside an error that is its own and not the request's:
that another machine may be asked. Nobody else is told."""

import math
from collections.abc import Mapping

from aiohttp import web

from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES
from proxy.errors import LoadRefused, ProxyError, is_busy
from proxy.node.names import ASKED, NOTHING_ASKED, REFUSES_COMMENT, REFUSES_HEADER


def refusal_headers(request: web.Request, error: ProxyError) -> Mapping[str, str]:
    """Those of an error's answer; none where it is not of a node's state."""
    return _headers(request) if _may_go_elsewhere(request, error) else {}


def busy_headers(request: web.Request, status: int) -> Mapping[str, str]:
    """Those of an engine's own answer with this status."""
    return _headers(request) if is_busy(status) and _asked_by_front(request) else {}


def refusal_comment(request: web.Request, error: ProxyError) -> bytes:
    """What is written before the event of an error, where a stream's head is out and nothing else;
    empty where it is not of a node's state."""
    if not _may_go_elsewhere(request, error):
        return b""
    wait_s = error.retry_after_s
    return b"%s %s\n\n" % (REFUSES_COMMENT, b"" if wait_s is None else b"%d" % math.ceil(wait_s))


def _headers(request: web.Request) -> Mapping[str, str]:
    return {REFUSES_HEADER: ASKED if request[REQUEST_LOG].backend else NOTHING_ASKED}


def _may_go_elsewhere(request: web.Request, error: ProxyError) -> bool:
    if not (error.elsewhere and _asked_by_front(request)):
        return False
    # Else a worker has crashed under it, and not the first one: that may be its doing.
    return not (isinstance(error, LoadRefused) and request[REQUEST_LOG].backend)


def _asked_by_front(request: web.Request) -> bool:
    node = request.app[SERVICES].node
    return node.key is not None and node.knows(request.headers)
