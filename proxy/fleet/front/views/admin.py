"""The operator's routes for the whole fleet: state, events, requests, backends."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from aiohttp import web

from proxy.api.event_stream import follow_events
from proxy.api.wire import json_response
from proxy.errors import NotFound
from proxy.fleet.front.ids import apart, marked_with_id, of_fleet
from proxy.fleet.front.views.answers import Said, table_of, understood
from proxy.fleet.front.views.asking import (
    ACTS_S,
    VIEWS,
    as_it_is,
    ask,
    ask_all,
    home,
    merged,
    node_named,
)
from proxy.fleet.front.views.bodies import read_small_body
from proxy.fleet.front.views.gate import Gate
from proxy.fleet.front.views.state import fleet_state
from proxy.node.names import NODE_HEADER
from proxy.version import own_version


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/admin/state", get_state)
    router.add_get("/admin/events", get_events, allow_head=False)
    router.add_get("/admin/requests", get_requests)
    router.add_post("/admin/requests/{id}/cancel", cancel)
    router.add_put("/admin/backends/{id}/split", put_split)
    router.add_get("/admin/backends/{id}/splits", get_splits)


async def get_state(request: web.Request) -> web.StreamResponse:
    views = request.app[VIEWS]
    look = partial(fleet_state, home="", own={})
    answers = await ask_all(request, method="GET", read=understood(look))
    own = {
        "version": own_version(),
        "uptime_s": round(time.monotonic() - views.started_s, 3),
        "nodes": views.known.listed(),
    }
    return merged(answers, fleet_state(answers.read, (await home(request)).name, own))


async def get_events(request: web.Request) -> web.StreamResponse:
    """Of all nodes, as long as one of them would tell this client of its own."""
    views = request.app[VIEWS]
    async with Gate(request) as gate:
        live = views.live
        return await follow_events(request, live.events, live.everything, gate.may_stay)


async def get_requests(request: web.Request) -> web.StreamResponse:
    answers = await ask_all(request, method="GET", read=understood(_requests))
    return merged(answers, {"requests": _requests(answers.read)})


async def cancel(request: web.Request) -> web.StreamResponse:
    node, its, whole = _item(request, "request")
    said = await ask(request, node, f"/admin/requests/{quote(its, safe='')}/cancel")
    return json_response({"cancelled": whole}) if said.is_good else as_it_is(said)


async def put_split(request: web.Request) -> web.StreamResponse:
    node, its, _ = _item(request, "backend")
    target = f"/admin/backends/{quote(its, safe='')}/split"
    body = await read_small_body(request)
    return backend_of(await ask(request, node, target, body=body, within_s=ACTS_S))


async def get_splits(request: web.Request) -> web.StreamResponse:
    node, its, _ = _item(request, "backend")
    target = f"/admin/backends/{quote(its, safe='')}/splits"
    return as_it_is(await ask(request, node, target, within_s=ACTS_S))


def backend_of(said: Said) -> web.Response:
    """The backend that a node answers with, as it is shown of the fleet."""
    if not said.is_good or said.body == b"null":
        return as_it_is(said)
    response = json_response(marked_with_id(said.node, table_of(said)))
    response.headers[NODE_HEADER] = said.node
    return response


def _requests(told: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        marked_with_id(node, each)
        for node, said in told.items()
        for each in said.get("requests") or ()
    ]


def _item(request: web.Request, what: str) -> tuple[Any, str, str]:
    """The node that has it, its id there, and the one that it has in the fleet. Raises NotFound."""
    whole = request.match_info["id"]
    parts = apart(whole)
    if parts is None:
        raise NotFound(f"{whole!r} is no {what} of a fleet, which is called NODE.ID")
    node, its = parts
    return node_named(request, node), its, of_fleet(node, its)
