"""Memory taken and given by others while a real worker serves: a card of a stand-in driver that
pynvml really loads, filled by a real RPC server's memory."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.types import CPU
from proxy.memory.snapshot import Snapshot
from proxy.routing.request import ModelRequest
from tests.support.card import (
    DEVICES,
    LAYERS,
    MIB,
    ON_CARD,
    RESERVE,
    TOTAL,
    CardRig,
    card_rig,
)
from tests.support.guard import HANG_S, until
from tests.support.models import model

pytestmark = pytest.mark.llama


@pytest.fixture
async def rig(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[CardRig]:
    """Two models; a test's parameters are devices' keys, and `split`, the first model's."""
    devices = dict(getattr(request, "param", {}))
    models = {"a": {"moe_cpu_layers": devices.pop("split", "auto")}}
    async with card_rig(tmp_path, models=models, **devices) as rig:
        yield rig


def whys(rig: CardRig, name: str) -> set[str]:
    """Why experts of a model have moved."""
    told = [e.fields for e in rig.proxy.app.services.events.since(0) if e.kind == "moved"]
    return {fields["why"] for fields in told if fields["model"] == name}


def moves_while_loading(rig: CardRig, name: str) -> set[tuple[str, str]]:
    """(model, why) of the moves while a model was loaded for the last time."""
    found: set[tuple[str, str]] = set()
    loading = False
    for event in rig.proxy.app.services.events.since(0):
        model = event.fields.get("model", "")
        match event.kind:
            case "backend_starting" if model == name:
                found, loading = set(), True
            case "backend_ready" if model == name:
                loading = False
            case "moved" if loading:
                found.add((model, event.fields["why"]))
    return found


async def device(rig: CardRig) -> dict[str, Any]:
    devices = (await rig.proxy.get("/admin/state"))["devices"]
    return dict(next(d for d in devices if d["name"] == "RPC0"))


async def with_one_on_the_cpu(rig: CardRig) -> None:
    """A third model, c, that uses no device."""
    await rig.edit({"c": {"path": model(layers=4)}})


async def test_auto_fills_the_device_and_shrinks_when_others_take_memory(rig: CardRig) -> None:
    text = await rig.ask("a")
    await rig.all_of("a")
    first = await rig.proxy.backend("a")

    rig.nvml.change(others=await rig.at_rest() - 10 * MIB)

    async def back_at_reserve() -> bool:
        shrunk = await rig.on_device("a") < LAYERS
        return shrunk and (await device(rig))["free_bytes"] >= RESERVE

    await until(back_at_reserve, "the reserve is free again", rig.state)
    shrunk = await rig.on_device("a")
    assert 0 < shrunk < LAYERS
    assert (await device(rig))["free_bytes"] < RESERVE + 30 * MIB, "no more than was needed"
    assert "pressure" in whys(rig, "a")
    assert await rig.ask("a") == text

    rig.nvml.change(others=0)
    await rig.all_of("a")
    assert await rig.ask("a") == text
    assert (await rig.proxy.backend("a"))["pid"] == first["pid"], "it was never loaded again"


@pytest.mark.parametrize("rig", [{"split": 4}], indirect=True)
async def test_an_explicit_number_is_kept_unless_memory_runs_out(rig: CardRig) -> None:
    await rig.ask("a")

    async def eight() -> bool:
        return await rig.on_device("a") == 8

    await until(eight, "8 layers are on the device", rig.state)
    rig.nvml.change(others=await rig.at_rest() - 10 * MIB)

    async def fewer() -> bool:
        return await rig.on_device("a") < 8

    await until(fewer, "some have left", rig.state)
    backend = await rig.proxy.backend("a")
    assert backend["asked"] == 4
    assert backend["moe_cpu_layers"] > 4
    rig.nvml.change(others=0)
    await until(eight, "they are back", rig.state)
    await rig.at_rest()
    assert await eight(), "and no more of them"


async def test_a_limit_counts_from_its_edit_on(rig: CardRig) -> None:
    text = await rig.ask("a")
    await rig.all_of("a")
    before = await rig.proxy.backend("a")
    held = sum(before["bytes"]["RPC0"].values())
    limit = (held - 40 * MIB) // MIB * MIB

    await rig.edit(RPC0=ON_CARD | {"limit": limit})

    async def within() -> bool:
        backend = await rig.proxy.backend("a")
        return sum(backend["bytes"]["RPC0"].values()) <= limit

    await until(within, "no more than the limit is held", rig.state)
    assert 0 < await rig.on_device("a") < LAYERS
    assert await rig.ask("a") == text

    await rig.edit(RPC0=ON_CARD)
    await rig.all_of("a")
    assert await rig.ask("a") == text
    assert (await rig.proxy.backend("a"))["pid"] == before["pid"]


@pytest.mark.parametrize("rig", [{"split": "full", "settle": "1h"}], indirect=True)
async def test_what_is_on_its_way_is_not_counted_again(rig: CardRig) -> None:
    """Requests that ask for the same while its experts come: there is room for all of them, but
    not for all twice."""
    await rig.ask("a", moe_cpu_layers="full")
    (backend,) = rig.proxy.app.services.pool.backends()
    layer = backend.engine.known().layers[0].experts_bytes
    rig.nvml.change(others=await rig.at_rest() - RESERVE - (LAYERS + 4) * layer)
    await rig.at_rest()

    await asyncio.gather(*(rig.controller.apply_request(backend, 0) for _ in range(2)))

    assert backend.engine.known().moe_cpu_layers == 0
    assert [move["layers"] for move in rig.desired.history(backend)] == [LAYERS]


@pytest.mark.parametrize("rig", [{"split": "full", "settle": "1h"}], indirect=True)
async def test_two_devices_on_one_card_share_its_room(rig: CardRig) -> None:
    await rig.edit({"a": {"rpc": list(rig.servers.values())}})
    await rig.ask("a", moe_cpu_layers="full")
    (backend,) = rig.proxy.app.services.pool.backends()
    layers = backend.engine.known().layers
    assert {layer.attention_device for layer in layers} == set(DEVICES)
    rig.nvml.change(others=await rig.at_rest() - RESERVE - 7 * layers[0].experts_bytes)
    await rig.at_rest()

    asking = asyncio.ensure_future(rig.controller.apply_request(backend, 0))
    await asyncio.sleep(0)  # it decides before it waits for anything
    goal = rig.desired.goal(backend)
    await asking

    assert 0 < sum(place != CPU for place in goal.values()) <= 7


async def test_a_second_model_makes_the_first_one_shrink_not_leave(rig: CardRig) -> None:
    """Room for one with all its experts, but for two only without some of them."""
    await rig.know("b")
    text_a = await rig.ask("a")
    await rig.all_of("a")
    rig.nvml.change(others=await rig.at_rest() - RESERVE - 5 * MIB)
    first = await rig.proxy.backend("a")

    text_b = await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [(b["model"], b["state"]) for b in backends] == [("a", "ready"), ("b", "ready")]
    assert (await rig.proxy.backend("a"))["pid"] == first["pid"]
    assert await rig.on_device("a") < LAYERS
    assert moves_while_loading(rig, "b") == {("a", "room")}, "nobody grows into the room made"
    assert (await rig.ask("a"), await rig.ask("b")) == (text_a, text_b)


async def test_a_model_that_is_not_used_leaves_where_shrinking_is_not_enough(rig: CardRig) -> None:
    await rig.know("b")
    await rig.ask("a")
    await rig.all_of("a")
    # Even without any of its experts, the first one leaves too little.
    experts = sum(x["experts_bytes"] for x in (await rig.proxy.backend("a"))["layers"])
    free = await rig.at_rest()
    rig.nvml.change(others=free + experts - RESERVE - 8 * MIB)

    await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [b["model"] for b in backends if b["state"] == "ready"] == ["b"]


async def test_a_model_that_holds_nothing_of_the_device_stays(rig: CardRig) -> None:
    """It is the one that was not used for the longest time, and its end would help nobody."""
    await with_one_on_the_cpu(rig)
    await rig.know("b")
    await rig.ask("c")
    await rig.ask("a")
    await rig.all_of("a")
    experts = sum(x["experts_bytes"] for x in (await rig.proxy.backend("a"))["layers"])
    rig.nvml.change(others=await rig.at_rest() + experts - RESERVE - 8 * MIB)

    await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [b["model"] for b in backends if b["state"] == "ready"] == ["c", "b"]


async def test_where_only_strangers_could_make_room_it_is_tried_all_the_same(rig: CardRig) -> None:
    """And is not waited for a model that is busy, but holds nothing of the device."""
    await with_one_on_the_cpu(rig)
    await rig.know(*"ab")
    rig.nvml.change(others=TOTAL)
    services = rig.proxy.app.services
    await services.memory.fresh()

    async with (
        await services.router.route(
            services.resolver.resolve("c"), ModelRequest("c"), "generation"
        ),
        asyncio.timeout(HANG_S),
    ):
        await asyncio.gather(rig.ask("a"), rig.ask("b"))


class Judge:
    """Looks at each decision right after it was made, at the very readings it was made from.

    So nothing here depends on how fast anything is. `wrong` says what broke a rule, where `low` is
    the reserve: from the first reading that shows less, all that is missing leaves at once.
    """

    def __init__(self, rig: CardRig) -> None:
        self._services, self._desired = rig.proxy.app.services, rig.desired
        self._coming: set[tuple[str, int]] = set()
        self._leaving: set[tuple[str, int]] = set()
        self.shrinks = self.growths = 0
        self.wrong: list[str] = []
        # The balancer listens since the proxy was made, so it has decided before we are told.
        self._services.memory.subscribe(self._look)

    def _look(self, snapshot: Snapshot) -> None:
        ledger = self._services.ledger
        frees = [free for name in DEVICES if (free := ledger.free(name)) is not None]
        free, due = min(frees), sum(ledger.pending_free(name) for name in DEVICES)
        sizes: dict[tuple[str, int], int] = {}
        coming, leaving, stay = set(), set(), 0
        for backend in self._services.pool.backends():
            goal = self._desired.goal(backend)
            for layer in backend.engine.known().layers:
                key, there = (backend.id, layer.index), layer.experts != CPU
                sizes[key] = layer.experts_bytes
                to_be = goal.get(layer.index, layer.experts) != CPU
                coming |= {key} if to_be and not there else set()
                leaving |= {key} if there and not to_be else set()
                stay += to_be
        grows, shrinks = coming - self._coming, leaving - self._leaving
        # Of what each backend copies, one layer may have its memory already: nobody knows.
        copied = {backend: sizes[backend, index] for backend, index in self._coming | coming}
        unsure = sum(copied.values())
        self._coming, self._leaving = coming, leaving
        self.growths, self.shrinks = self.growths + bool(grows), self.shrinks + bool(shrinks)
        free_with = free - sum(sizes[key] for key in coming)
        free_then = free_with + due + sum(sizes[key] for key in leaving)
        numbers = f"{snapshot.number}: {free / MIB:.0f} MiB free, {due / MIB:.0f} due"
        if free_then < RESERVE - unsure and stay:
            self.wrong.append(f"{numbers}: not back at the reserve in one go, {stay} layers stay")
        if grows and free_with < RESERVE:
            self.wrong.append(f"{numbers}: growth to {free_with / MIB:.0f} MiB, into the reserve")


@pytest.mark.parametrize("rig", [{"low": RESERVE}], indirect=True)
async def test_random_pressure_while_two_models_stream(rig: CardRig, thorough: bool) -> None:
    """200 changes: no failed request, both alive at the end, the same text as without pressure,
    and the budget is never exceeded by more than a layer for longer than one poll and its moves:
    every decision leads back to the reserve, and once its moves are done the card shows it."""
    texts = {name: await rig.ask(name) for name in "ab"}
    pids = {name: (await rig.proxy.backend(name))["pid"] for name in "ab"}
    await rig.all_of("a")
    await rig.all_of("b")
    layers = [
        x["experts_bytes"] for name in "ab" for x in (await rig.proxy.backend(name))["layers"]
    ]
    # So much that no experts can stay, and at most so much.
    most = await rig.at_rest() + sum(layers) - RESERVE - layers[0]
    judge, served = Judge(rig), 0
    seen_at_rest: list[int] = []

    async def stream(name: str) -> None:
        nonlocal served
        while True:
            assert await rig.ask(name, max_tokens=16)
            served += 1

    tasks = [asyncio.ensure_future(stream(name)) for name in "abab"]
    pick = random.Random(7)
    changes = 0
    try:
        while changes < (200 if thorough else 40) or served < 8 or len(seen_at_rest) < 4:
            rig.nvml.change(others=pick.randrange(0, most))
            changes += 1
            # Sometimes too fast to be seen, sometimes seen once, sometimes until all has moved.
            for _ in range(pick.choice((0, 0, 1, 2))):
                await rig.proxy.app.services.memory.fresh()
            if changes % 8 == 0:
                seen_at_rest.append(await rig.at_rest())
            assert not [task.exception() for task in tasks if task.done()]
            assert not judge.wrong
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    rig.nvml.change(others=0)
    await rig.all_of("a")
    await rig.all_of("b")

    assert not judge.wrong
    assert min(seen_at_rest) >= RESERVE - layers[0]
    assert judge.shrinks
    assert judge.growths
    assert {name: (await rig.proxy.backend(name))["pid"] for name in "ab"} == pids
    assert {name: await rig.ask(name) for name in "ab"} == texts
