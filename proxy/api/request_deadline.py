"""How long a request may take: as the policies say, or as it says itself, whichever is less."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from proxy.api.middleware import REQUEST_LOG
from proxy.api.services import SERVICES
from proxy.errors import BadRequest, DeadlinePassed
from proxy.policy.units import parse_duration

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
async def deadline(request: web.Request) -> AsyncIterator[None]:
    """What is done in it ends when the time is up: it is cancelled, and so gives back what it has.
    Raises DeadlinePassed then, and BadRequest."""
    most_s = limit_s(request)
    if most_s is None:
        yield
        return
    spent_s = time.monotonic() - request[REQUEST_LOG].started_s
    timer = asyncio.timeout(max(most_s - spent_s, 0.0))
    try:
        async with timer:
            yield
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise DeadlinePassed(f"the request took longer than {most_s:g} s") from error
