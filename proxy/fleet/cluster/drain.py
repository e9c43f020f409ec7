"""How a node is emptied before it goes: what it has is loaded elsewhere, what runs there ends."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from proxy.fleet.choice import Asked, choose
from proxy.fleet.cluster.node_api import NodeApi, NotAnswered
from proxy.fleet.front.picture import SERVES, Models, models_of, node_of
from proxy.fleet.member import Members
from proxy.fleet.state import Fleet
from proxy.text import in_words

log = structlog.get_logger()

LOOK_S: Final = 0.25
ANSWER_S: Final = 5.0
LOAD_S: Final = 1800.0
# All fronts have heard by then that it drains; what one of them has sent before has arrived.
QUIET_S: Final = 1.5
# Of what is left when the time is over: clients are told to come again, then it is ended.
HEARD_S: Final = 1.0
ENDS_S: Final = 10.0

Json = Mapping[str, Any]
Moves = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Told:
    """What a node says of itself: /admin/state, and its models."""

    state: Json
    models: Models


def fleet_of(told: Mapping[str, Told], draining: Collection[str]) -> Fleet:
    """Pure."""
    fleet = Fleet()
    for name, each in told.items():
        state = {
            "backends": {backend["id"]: backend for backend in each.state["backends"]},
            "memory": {
                "devices": {device["name"]: device for device in each.state["devices"]},
                "host": each.state["host"],
            },
        }
        fleet.update(node_of(name, state, each.models, {}, draining=name in draining))
        fleet.set_files(name, each.models.models)
    return fleet


def moves(told: Mapping[str, Told], leaving: str, draining: Collection[str]) -> Moves:
    """Where each model goes that is loaded on the node that leaves, and nowhere else; None: nobody
    can take it. Pure."""
    fleet = fleet_of(told, {*draining, leaving})
    found: dict[str, str | None] = {}
    for name in {each["model"] for each in told[leaving].state["backends"] if _is_there(each)}:
        others = [fleet.nodes[node] for node in fleet.with_model(name)]
        if any(not node.draining for node in others):
            continue
        model = told[leaving].models.models.get(name)
        asked = Asked(
            name,
            name.encode()[:64],
            least_bytes=model.least_bytes if model else 0,
            without={leaving},
        )
        choice = choose(fleet, asked)
        found[name] = choice.node if choice else None
    return found


def busy(state: Json) -> int:
    """How many requests are there. Pure."""
    there: int = sum(each["in_flight"] + each["waiting"] for each in state["backends"])
    return max(there, len(state["requests"]))


async def empty(
    name: str,
    members: Callable[[], Members],
    api: NodeApi,
    within_s: float,
    say: Callable[[str], None],
) -> None:
    """Returns when nothing runs there any more, or that time is over. It does not fail for what
    cannot be moved. `say` is told what it waits for."""
    clock = asyncio.get_running_loop().time
    end_s = clock() + within_s
    try:
        async with asyncio.timeout(within_s):
            await _move(name, members(), api, say)
    except TimeoutError:
        log.warning("fleet_drain_moves_late", node=name)
    quiet_since: float | None = None
    while True:
        url = _url(members(), name)
        try:
            count = busy(await api.get(url, "/admin/state", ANSWER_S)) if url else 0
        except NotAnswered as error:
            say(f"does not answer: {error}")
            count = 1
        now_s = clock()
        if count == 0:
            quiet_since = now_s if quiet_since is None else quiet_since
            if now_s - quiet_since >= QUIET_S:
                return
        else:
            quiet_since = None
            say(f"waits for {in_words(count, 'request')}, {max(end_s - now_s, 0):.0f} s at most")
        if now_s >= end_s:
            log.warning("fleet_drain_late", node=name, requests=count)
            return
        await asyncio.sleep(LOOK_S)


async def _move(name: str, members: Members, api: NodeApi, say: Callable[[str], None]) -> None:
    urls = {each.name: each.url for each in members.nodes}
    answers = await asyncio.gather(*(_told(api, url) for url in urls.values()))
    told = {name: each for name, each in zip(urls, answers, strict=True) if each is not None}
    if name not in told:
        return  # it does not answer: there is nothing to be moved
    where = moves(told, name, {each.name for each in members.nodes if each.draining})
    for model in (model for model, node in where.items() if node is None):
        log.warning("fleet_drain_stays", model=model, hint="no other node has its file and room")
    going = {model: node for model, node in where.items() if node is not None}
    if going:
        say("has others load " + ", ".join(f"{model} ({node})" for model, node in going.items()))
    await asyncio.gather(*(_load(api, urls[node], model) for model, node in going.items()))


async def _told(api: NodeApi, url: str) -> Told | None:
    try:
        state, models = await asyncio.gather(
            api.get(url, "/admin/state", ANSWER_S), api.get(url, "/v1/models", ANSWER_S)
        )
    except NotAnswered as error:
        log.warning("fleet_drain_not_told", reason=str(error))
        return None
    return Told(state, models_of(models))


async def _load(api: NodeApi, url: str, model: str) -> None:
    try:
        await api.load(url, model, LOAD_S)
    except NotAnswered as error:
        log.warning("fleet_drain_not_loaded", model=model, reason=str(error))


def _is_there(backend: Json) -> bool:
    return backend["state"] in SERVES


def _url(members: Members, name: str) -> str | None:
    return next((each.url for each in members.nodes if each.name == name), None)
