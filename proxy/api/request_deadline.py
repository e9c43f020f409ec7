"""How long a request may take: as the policies say, or as it says itself, whichever is less; and
until somebody ends it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from aiohttp import web

from proxy.api.open_requests import BY_OPERATOR, OpenRequest
from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES
from proxy.errors import BadRequest, Cancelled, DeadlinePassed
from proxy.policy.units import parse_duration
from proxy.routing.request import ModelRequest

TIMEOUT_HEADER: Final = "X-Moe-Proxy-Timeout"


def limit_s(request: web.Request) -> float | None:
    """From when it came; None: as long as it likes. Raises BadRequest."""
    limits = []
    if policy_s := request.app[SERVICES].policies.current.server.timeout_s:
        limits.append(policy_s)
    if (given := request.headers.get(TIMEOUT_HEADER)) is not None:
        try:
            own_s = parse_duration(given)
        except ValueError as error:
            text = f"{TIMEOUT_HEADER}: this is not allowed; {error}"
            raise BadRequest(text, param=TIMEOUT_HEADER) from error
        if own_s:
            limits.append(own_s)
    return min(limits, default=None)


@asynccontextmanager
async def deadline(request: web.Request, wanted: ModelRequest) -> AsyncIterator[None]:
    """What is done in it ends when the time is up, or when somebody ends it: it is cancelled, and
    so gives back what it has. Raises DeadlinePassed or Cancelled then, and BadRequest."""
    request_log, most_s = request[REQUEST_LOG], limit_s(request)
    spent_s = time.monotonic() - request_log.started_s
    timer = asyncio.timeout(None if most_s is None else max(most_s - spent_s, 0.0))
    try:
        async with timer:
            with _seen(request, wanted, timer):
                yield
    except TimeoutError as error:
        if not timer.expired():
            raise
        if request_log.open is not None and request_log.open.cancelled:
            raise Cancelled(BY_OPERATOR) from error
        raise DeadlinePassed(f"the request took longer than {most_s:g} s") from error


@contextmanager
def _seen(request: web.Request, wanted: ModelRequest, timer: asyncio.Timeout) -> Iterator[None]:
    """What a model is run for is seen by others meanwhile."""
    if wanted.work is None:
        yield
        return
    request_log = request[REQUEST_LOG]
    model = request_log.model or wanted.model
    request_log.open = OpenRequest(request_log.id, request.path, model, wanted.work, timer)
    with request.app[SERVICES].requests.here(request_log.open):
        yield
