"""How a node is emptied before it goes: what it has is loaded elsewhere, what runs there ends."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import structlog

from proxy.fleet.choice import Asked, choose
from proxy.fleet.cluster.node_api import NodeApi, NotAnswered
from proxy.fleet.member import Members
from proxy.fleet.state import Fleet, Loaded, Node
from proxy.text import in_words

log = structlog.get_logger()

LOOK_S: Final = 0.25
ANSWER_S: Final = 5.0
LOAD_S: Final = 1800.0
# All fronts have heard by then that it drains; what one of them has sent before has arrived.
QUIET_S: Final = 1.5
THERE: Final = frozenset({"starting", "ready"})

Json = Mapping[str, Any]


def node_of(name: str, state: Json, *, draining: bool = False) -> Node:
    """What /admin/state says of a node. Pure."""
    backends = [each for each in state["backends"] if each["state"] in THERE]
    devices = [each for each in state["devices"] if each["free_bytes"] is not None]
    if devices:
        free = sum(max(each["free_bytes"] - each["reserve_bytes"], 0) for each in devices)
    else:
        free = state["host"]["available_bytes"] or 0
    names = {each["name"] for each in devices}
    idle = [each for each in backends if not each["in_flight"] and not each["pinned"]]
    return Node(
        name,
        tuple(
            Loaded(each["model"], each["ctx"], each["parallel"], each["in_flight"], each["waiting"])
            for each in backends
        ),
        free_bytes=free,
        movable_bytes=sum(_held(each, names, experts=True) for each in backends),
        idle_bytes=sum(_held(each, names, experts=False) for each in idle),
        draining=draining,
    )


def moves(fleet: Fleet, leaving: str, least_bytes: Mapping[str, int]) -> dict[str, str | None]:
    """Where each model goes that is loaded on the node that leaves, and nowhere else; None: nobody
    can take it. Pure."""
    found: dict[str, str | None] = {}
    for loaded in fleet.nodes[leaving].loaded:
        others = [name for name in fleet.with_model(loaded.model) if not fleet.nodes[name].draining]
        if others and others != [leaving]:
            continue
        asked = Asked(
            loaded.model,
            loaded.model.encode()[:64],
            least_bytes=least_bytes.get(loaded.model, 0),
            without={leaving},
        )
        choice = choose(fleet, asked)
        found[loaded.model] = choice.node if choice else None
    return found


def at_least(state: Json) -> dict[str, int]:
    """What each loaded model takes of devices without its experts, as it does here. Pure."""
    names = {each["name"] for each in state["devices"]}
    return {each["model"]: _held(each, names, experts=False) for each in state["backends"]}


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
    draining = {each.name for each in members.nodes if each.draining}
    fleet, least = Fleet(), {}
    answers = await asyncio.gather(*(_told(api, url) for url in urls.values()))
    for each, answer in zip(urls, answers, strict=True):
        if answer is None:
            continue
        state, models = answer
        fleet.update(node_of(each, state, draining=each in draining))
        fleet.set_files(each, models)
        if each == name:
            least = at_least(state)
    if name not in fleet.nodes:
        return  # it does not answer: there is nothing to be moved
    where = moves(fleet, name, least)
    for model in (model for model, node in where.items() if node is None):
        log.warning("fleet_drain_stays", model=model, hint="no other node has its file and room")
    going = {model: node for model, node in where.items() if node is not None}
    if going:
        say("has others load " + ", ".join(f"{model} ({node})" for model, node in going.items()))
    await asyncio.gather(*(_load(api, urls[node], model) for model, node in going.items()))


async def _told(api: NodeApi, url: str) -> tuple[Json, Iterable[str]] | None:
    try:
        state, models = await asyncio.gather(
            api.get(url, "/admin/state", ANSWER_S), api.get(url, "/v1/models", ANSWER_S)
        )
        return state, [each["id"] for each in models["data"]]
    except NotAnswered as error:
        log.warning("fleet_drain_not_told", reason=str(error))
        return None


async def _load(api: NodeApi, url: str, model: str) -> None:
    try:
        await api.load(url, model, LOAD_S)
    except NotAnswered as error:
        log.warning("fleet_drain_not_loaded", model=model, reason=str(error))


def _held(backend: Json, devices: Iterable[str], *, experts: bool) -> int:
    """Bytes on devices: of experts, or of all else."""
    return sum(
        size
        for device, kinds in backend["bytes"].items()
        if device in devices
        for kind, size in kinds.items()
        if (kind == "experts") is experts
    )


def _url(members: Members, name: str) -> str | None:
    return next((each.url for each in members.nodes if each.name == name), None)
