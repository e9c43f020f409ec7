"""The operator's routes: state, events, requests, splits, loading and unloading."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from proxy.api.admin_state import state
from proxy.api.bodies import decode_json, read_body
from proxy.api.followers import Follower
from proxy.api.live import Live
from proxy.api.options import read_model
from proxy.api.request_state import requests_state
from proxy.api.services import SERVICES, Services
from proxy.api.wire import json_response, sse_frame, start_stream
from proxy.errors import BadRequest, NotFound
from proxy.observe.events import Event, Subscription
from proxy.observe.record import PID_HEADER
from proxy.pool.state import Backend, BackendState
from proxy.split import parse_split

HEARTBEAT_S = 15.0
LEAST_HEARTBEAT_S = 1.0
LIVE: web.AppKey[Live] = web.AppKey("live", Live)
_EVENT_ID = re.compile(r"[0-9]{1,18}")


class SplitBody(msgspec.Struct, forbid_unknown_fields=True):
    moe_cpu_layers: Any


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/health", health)
    router.add_get("/v1/health", health)
    router.add_get("/admin/state", get_state)
    router.add_get("/admin/events", get_events, allow_head=False)
    router.add_get("/admin/requests", get_requests)
    router.add_post("/admin/requests/{id}/cancel", cancel_request)
    router.add_put("/admin/backends/{id}/split", put_split)
    router.add_get("/admin/backends/{id}/splits", get_splits)
    # Names have slashes and colons; the verb is what comes after the last slash.
    router.add_get("/admin/models/{name:.+}/plan", get_plan)
    router.add_post("/admin/models/{name:.+}/load", load)
    router.add_post("/admin/models/{name:.+}/unload", unload)
    router.add_post("/admin/models/{name:.+}/pin", pin)
    router.add_post("/admin/models/{name:.+}/unpin", unpin)
    router.add_put("/admin/models/{name:.+}/split", put_model_split)


async def live_context(app: web.Application) -> AsyncIterator[None]:
    """What changes is told as long as the application is there (for its `cleanup_ctx`)."""
    services = app[SERVICES]
    app[LIVE] = live = Live(services)
    async with services.loops.background(live.run, name="live"):
        yield


async def health(request: web.Request) -> web.Response:
    """The proxy itself is well: it takes requests, also while models load."""
    draining = request.app[SERVICES].pool.draining
    response = json_response(
        {"status": "draining" if draining else "ok"}, status=503 if draining else 200
    )
    response.headers[PID_HEADER] = str(os.getpid())  # a second one knows us by it
    return response


async def get_state(request: web.Request) -> web.Response:
    return json_response(state(request.app[SERVICES]))


async def get_events(request: web.Request) -> web.StreamResponse:
    """Events as they happen; with `Last-Event-ID`, from the next one on, as far as kept. With
    `?state`, first an event with all that the patches are to be put on; `?heartbeat=1` has
    something said each second."""
    services = request.app[SERVICES]
    after = _last_event_id(request)
    heartbeat_s = _heartbeat_s(request)
    state = request.app[LIVE].everything() if "state" in request.query else None
    with services.events.subscribe(after=after) as subscription:
        response = await start_stream(request, "text/event-stream")
        # Says at once that it is connected, and where the story goes on from.
        await response.write(b": connected, last event %d\n\n" % services.events.last_id)
        if state is not None:
            await response.write(sse_frame(state, event="state"))
        follower = Follower(request)
        async for event in _with_heartbeats(subscription, heartbeat_s):
            if not follower.may_stay():
                break
            await response.write(
                sse_frame(event.to_json(), event_id=event.id or None, event=event.kind)
                if event
                else b": still here\n\n"
            )
    return response


async def get_requests(request: web.Request) -> web.Response:
    found = requests_state(request.app[SERVICES])
    return json_response({"requests": list(found.values())})


async def cancel_request(request: web.Request) -> web.Response:
    """End a request, waiting or under way: its client gets an error, its generation ends."""
    request_id = request.match_info["id"]
    if not request.app[SERVICES].requests.cancel(request_id):
        raise NotFound(f"there is no request {request_id!r}; it may have ended")
    return json_response({"cancelled": request_id})


async def put_split(request: web.Request) -> web.Response:
    """Set the split of one backend, and answer when its experts have moved."""
    services = request.app[SERVICES]
    backend_id = request.match_info["id"]
    split = await _read_split(request)
    _known_backend(services, backend_id)
    await services.controller.operator(backend_id, split)
    return json_response(await _backend_json(services, backend_id))


async def get_splits(request: web.Request) -> web.Response:
    """What each split of a backend would give."""
    services = request.app[SERVICES]
    backend = _known_backend(services, request.match_info["id"])
    return json_response(await services.split_table.of(backend))


async def get_plan(request: web.Request) -> web.Response:
    """Where a model would go, without loading it; the query says what should be otherwise than
    the policies have it."""
    services = request.app[SERVICES]
    model = await services.resolve(request.match_info["name"])
    return json_response(await services.plans.of(model.policy, model.path, request.query))


async def put_model_split(request: web.Request) -> web.Response:
    """The same for all backends of a model, which has to be loaded."""
    services = request.app[SERVICES]
    split = await _read_split(request)
    model = await services.resolve(request.match_info["name"])
    ids = [backend.id for backend in await services.router.backends_of(model)]
    # At once: one that does not answer keeps no other from moving.
    await asyncio.gather(
        *(services.controller.operator(target, split) for target in ids or [model.name])
    )
    backends = state(services)["backends"]
    return json_response({"backends": [b for b in backends if b["id"] in ids]})


async def load(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    asked = read_model(request.match_info["name"], knows=services.resolver.knows)
    model = await services.resolve(asked.model)
    route = services.router.route(model, asked, model.policy.mode, insists=True)
    async with await route as lease:
        backend_id = lease.backend.id
    return json_response(await _backend_json(services, backend_id))


async def unload(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    model = await services.resolve(request.match_info["name"])
    return json_response({"unloaded": await services.unload(model, failed=True)})


async def pin(request: web.Request) -> web.Response:
    """Have a model stay loaded, which has to be: neither its keep-alive time nor another model
    unloads it. It holds until it is unloaded by hand, its policy says otherwise, or the proxy
    ends."""
    return await _pin(request, pinned=True)


async def unpin(request: web.Request) -> web.Response:
    return await _pin(request, pinned=False)


async def _pin(request: web.Request, *, pinned: bool) -> web.Response:
    services = request.app[SERVICES]
    model = await services.resolve(request.match_info["name"])
    ids = [backend.id for backend in await services.router.backends_of(model)]
    if not ids:
        raise NotFound(f"{model.name!r} is not loaded")
    for backend_id in ids:
        services.pool.pin(backend_id, pinned=pinned)
    return json_response({"pinned": pinned, "backends": ids})


async def _read_split(request: web.Request) -> Any:
    return parse_split(decode_json(await _read(request), SplitBody).moe_cpu_layers)


async def _read(request: web.Request) -> bytes:
    return await read_body(request, request.app[SERVICES].policies.current.server.max_body_bytes)


def _known_backend(services: Services, backend_id: str) -> Backend:
    for backend in services.pool.backends():
        if backend.id == backend_id and backend.state is not BackendState.GONE:
            return backend
    there = ", ".join(b.id for b in services.pool.backends()) or "none"
    raise NotFound(f"there is no backend {backend_id!r}; there is {there}")


async def _backend_json(services: Services, backend_id: str) -> Any:
    backends = state(services)["backends"]
    return next((backend for backend in backends if backend["id"] == backend_id), None)


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
