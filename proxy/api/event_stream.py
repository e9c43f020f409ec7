"""Events as they happen, for those who follow: of one proxy, or of a fleet."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from aiohttp import web

from proxy.api.wire import sse_frame, start_stream
from proxy.errors import BadRequest
from proxy.observe.events import Event, EventLog, Subscription

HEARTBEAT_S: Final = 15.0
LEAST_HEARTBEAT_S: Final = 1.0
_EVENT_ID: Final = re.compile(r"[0-9]{1,18}")


async def follow_events(
    request: web.Request,
    events: EventLog,
    everything: Callable[[], Any],
    may_stay: Callable[[], bool],
) -> web.StreamResponse:
    """Tell of them until the client leaves, or may not stay. `everything` is what the patches are
    to be put on."""
    after = _last_event_id(request)
    heartbeat_s = _heartbeat_s(request)
    state = everything() if "state" in request.query else None
    with events.subscribe(after=after) as subscription:
        response = await start_stream(request, "text/event-stream")
        # Says at once that it is connected, and where the story goes on from.
        await response.write(b": connected, last event %d\n\n" % events.last_id)
        if state is not None:
            await response.write(sse_frame(state, event="state"))
        async for event in _with_heartbeats(subscription, heartbeat_s):
            if not may_stay():
                break
            await response.write(
                sse_frame(event.to_json(), event_id=event.id or None, event=event.kind)
                if event
                else b": still here\n\n"
            )
    return response


def _last_event_id(request: web.Request) -> int | None:
    given = request.headers.get("Last-Event-ID") or request.query.get("after")
    if given is None:
        return None
    if not _EVENT_ID.fullmatch(given):
        raise BadRequest("Last-Event-ID: this is not the id of an event", param="Last-Event-ID")
    return int(given)


def _heartbeat_s(request: web.Request) -> float:
    given = request.query.get("heartbeat", str(HEARTBEAT_S))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not LEAST_HEARTBEAT_S <= seconds <= HEARTBEAT_S:
        least, most = round(LEAST_HEARTBEAT_S), round(HEARTBEAT_S)
        raise BadRequest(f"heartbeat: seconds, from {least} to {most}", param="heartbeat")
    return seconds


async def _with_heartbeats(
    subscription: Subscription, heartbeat_s: float
) -> AsyncIterator[Event | None]:
    """The events, and None whenever there was none for a while: so that dead connections are
    noticed.
    """
    while True:
        try:
            async with asyncio.timeout(heartbeat_s):
                event: Event | None = await anext(subscription)
        except TimeoutError:
            event = None
        except StopAsyncIteration:
            return
        yield event
