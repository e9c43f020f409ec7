"""Memory taken and given by others while a real worker serves: a card of a stand-in driver that
pynvml really loads, filled by a real RPC server's memory."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.control.controller import Controller
from proxy.engine.types import CPU
from proxy.memory.snapshot import Snapshot
from proxy.routing.request import ModelRequest
from tests.support.guard import HANG_S
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.nvml import RETURNS_MEMORY, StandInCard, StandInNvml
from tests.support.proxy import Proxy, proxy

MIB = 1 << 20
TOTAL, RESERVE = 1024 * MIB, 64 * MIB
# About 13 MiB of experts a layer.
SIZES = {"width": 512, "expert_width": 512, "experts": 16}
POLICIES = """
[devices]
reserve = "64MiB"
low = "{low}"
settle = "{settle}"
[devices.RPC0]
memory = "nvml:GPU-0"
[devices.RPC1]
memory = "nvml:GPU-0"
[engine]
threads = 1
[defaults]
ctx = 512
parallel = 2
keep_alive = "-1"
repack = "off"
[models.a]
path = "{a}"
rpc = ["{rpc_a}"]
moe_cpu_layers = {split}
[models.b]
path = "{b}"
rpc = ["{rpc_b}"]
"""
BODY = {"prompt": "the quick brown fox", "max_tokens": 8, "temperature": 0}
DEVICES = ("RPC0", "RPC1")
LAYERS = 12


class Rig:
    """A proxy, two RPC servers that fill one card, and the hand that changes what others take of
    it.

    The card shows each server's memory from its start to its end, as its own process or, while a
    worker uses it, as that worker.
    """

    def __init__(self, nvml: StandInNvml, proxy: Proxy, servers: dict[str, int]) -> None:
        self.nvml, self.proxy, self._servers = nvml, proxy, servers
        self._shown_as: dict[str, int] = {}
        for name in servers:
            self._show(name, servers[name])
        controller, pool = proxy.app.services.splits, proxy.app.services.pool
        assert isinstance(controller, Controller)
        self.controller = controller
        pool.hooks.subscribe(
            ready=lambda b: self._show(b.options.model, b.engine.pid or 0),
            gone=lambda b: self._show(b.options.model, servers[b.options.model]),
        )

    def _show(self, name: str, pid: int) -> None:
        before = self._shown_as.get(name, 0)
        self.nvml.process(pid, follows=self._servers[name], instead_of=before)
        self._shown_as[name] = pid

    async def ask(self, name: str, **more: object) -> str:
        answer = await self.proxy.post("/v1/completions", BODY | {"model": name} | more)
        return str(answer["choices"][0]["text"])

    def whys(self, name: str) -> set[str]:
        """Why experts of a model have moved."""
        told = [e.fields for e in self.proxy.app.services.events.since(0) if e.kind == "moved"]
        return {fields["why"] for fields in told if fields["model"] == name}

    def moves_while_loading(self, name: str) -> set[tuple[str, str]]:
        """(model, why) of the moves while a model was loaded for the last time."""
        found: set[tuple[str, str]] = set()
        loading = False
        for event in self.proxy.app.services.events.since(0):
            model = event.fields.get("model", "")
            match event.kind:
                case "backend_starting" if model == name:
                    found, loading = set(), True
                case "backend_ready" if model == name:
                    loading = False
                case "moved" if loading:
                    found.add((model, event.fields["why"]))
        return found

    def moving(self) -> bool:
        return any(map(self.controller.moving, self.proxy.app.services.pool.backends()))

    async def at_rest(self) -> int:
        """What is free on the card, read after all moves have ended and while no new one began,
        with all in it that the workers hold."""
        services = self.proxy.app.services
        quiet_s, moved = time.monotonic(), -1
        async with asyncio.timeout(HANG_S):
            while True:
                snapshot = await services.memory.fresh()
                read = [snapshot.devices[name] for name in DEVICES if name in snapshot.devices]
                settled = all(services.ledger.settled(r.name) for r in read)
                before, moved = moved, self._last_move()
                if self.moving() or not settled or moved != before:
                    quiet_s = time.monotonic()
                elif read and all(not r.stale and (r.at_s or 0.0) >= quiet_s for r in read):
                    return min(r.free_bytes or 0 for r in read)
                await asyncio.sleep(0.02)

    def _last_move(self) -> int:
        events = self.proxy.app.services.events.since(0)
        return max((event.id for event in events if event.kind == "moved"), default=0)

    async def edit(self, policies: str) -> None:
        """Save the policies, and wait until they hold."""
        before = (await self.proxy.get("/admin/state"))["policies"]["generation"]
        self.proxy.edit(policies)

        async def read() -> bool:
            return bool((await self.proxy.get("/admin/state"))["policies"]["generation"] > before)

        await self.until(read, "the policies are read")

    async def with_one_on_the_cpu(self) -> None:
        """A third model, c, that uses no device."""
        c = f'[models.c]\npath = "{model(layers=4)}"\n'
        self._servers["c"] = 0
        await self.edit(self.proxy.policies.read_text() + c)

    async def know_both(self) -> None:
        """What devices there are is known from the workers that used them."""
        await self.ask("b")
        await self.proxy.post("/admin/models/b/unload")

    async def device(self) -> dict[str, Any]:
        devices = (await self.proxy.get("/admin/state"))["devices"]
        return dict(next(d for d in devices if d["name"] == "RPC0"))

    async def on_device(self, name: str) -> int:
        layers = (await self.proxy.backend(name))["layers"]
        return sum(layer["experts"] != "CPU" for layer in layers)

    async def until(self, true: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(HANG_S):
                while not await true():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            state = await self.proxy.get("/admin/state")
            raise AssertionError(f"{what}: {state['devices']} {state['backends']}") from None

    async def all_of(self, name: str) -> None:
        async def there() -> bool:
            return await self.on_device(name) == LAYERS

        await self.until(there, f"all experts of {name} are on the device")


@pytest.fixture
async def rig(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    options = {"settle": "300ms", "split": '"auto"', "low": "32MiB"} | getattr(request, "param", {})
    nvml = StandInNvml(tmp_path, StandInCard(total=TOTAL))
    async with contextlib.AsyncExitStack() as stack:
        name, _, value = RETURNS_MEMORY.partition("=")
        servers = [
            await stack.enter_async_context(rpc_server(threads=1, **{name: value})) for _ in "ab"
        ]
        stack.enter_context(nvml.loaded())
        text = POLICIES.format(
            a=model(sizes=SIZES),
            b=model(sizes=SIZES, seed=1),
            rpc_a=servers[0],
            rpc_b=servers[1],
            **options,
        )
        pids = {name: server.pid for name, server in zip("ab", servers, strict=True)}
        yield Rig(nvml, await stack.enter_async_context(proxy(tmp_path, text)), pids)


async def test_auto_fills_the_device_and_shrinks_when_others_take_memory(rig: Rig) -> None:
    text = await rig.ask("a")
    await rig.all_of("a")

    rig.nvml.change(others=await rig.at_rest() - 10 * MIB)

    async def back_at_reserve() -> bool:
        shrunk = await rig.on_device("a") < LAYERS
        return shrunk and (await rig.device())["free_bytes"] >= RESERVE

    await rig.until(back_at_reserve, "the reserve is free again")
    shrunk = await rig.on_device("a")
    assert 0 < shrunk < LAYERS
    assert (await rig.device())["free_bytes"] < RESERVE + 30 * MIB, "no more than was needed"
    assert "pressure" in rig.whys("a")
    assert await rig.ask("a") == text

    rig.nvml.change(others=0)
    await rig.all_of("a")
    assert await rig.ask("a") == text
    assert (await rig.proxy.backend("a"))["pid"], "it was never reloaded"


@pytest.mark.parametrize("rig", [{"split": "4"}], indirect=True)
async def test_an_explicit_number_is_kept_unless_memory_runs_out(rig: Rig) -> None:
    await rig.ask("a")

    async def eight() -> bool:
        return await rig.on_device("a") == 8

    await rig.until(eight, "8 layers are on the device")
    rig.nvml.change(others=await rig.at_rest() - 10 * MIB)

    async def fewer() -> bool:
        return await rig.on_device("a") < 8

    await rig.until(fewer, "some have left")
    backend = await rig.proxy.backend("a")
    assert backend["asked"] == 4
    assert backend["moe_cpu_layers"] > 4
    rig.nvml.change(others=0)
    await rig.until(eight, "they are back, and no more of them")


async def test_a_limit_counts_from_its_edit_on(rig: Rig) -> None:
    text = await rig.ask("a")
    await rig.all_of("a")
    before = await rig.proxy.backend("a")
    held = sum(before["bytes"]["RPC0"].values())
    limit = (held - 40 * MIB) // MIB * MIB
    policies = rig.proxy.policies.read_text()

    rig.proxy.edit(policies.replace("[devices.RPC0]\n", f"[devices.RPC0]\nlimit = {limit}\n"))

    async def within() -> bool:
        backend = await rig.proxy.backend("a")
        return sum(backend["bytes"]["RPC0"].values()) <= limit

    await rig.until(within, "no more than the limit is held")
    assert 0 < await rig.on_device("a") < LAYERS
    assert await rig.ask("a") == text

    rig.proxy.edit(policies)
    await rig.all_of("a")
    assert await rig.ask("a") == text
    assert (await rig.proxy.backend("a"))["pid"] == before["pid"]


@pytest.mark.parametrize("rig", [{"split": '"full"', "settle": "1h"}], indirect=True)
async def test_what_is_on_its_way_is_not_counted_again(rig: Rig) -> None:
    """Requests that ask for the same while its experts come: there is room for all of them, but
    not for all twice."""
    await rig.ask("a", moe_cpu_layers="full")
    (backend,) = rig.proxy.app.services.pool.backends()
    layer = backend.engine.known().layers[0].experts_bytes
    rig.nvml.change(others=await rig.at_rest() - RESERVE - (LAYERS + 4) * layer)
    await rig.at_rest()

    await asyncio.gather(*(rig.controller.apply_request(backend, 0) for _ in range(2)))

    assert backend.engine.known().moe_cpu_layers == 0
    assert [move["layers"] for move in rig.controller.migrations(backend.id)] == [LAYERS]


@pytest.mark.parametrize("rig", [{"split": '"full"', "settle": "1h"}], indirect=True)
async def test_two_devices_on_one_card_share_its_room(rig: Rig) -> None:
    policies = rig.proxy.policies.read_text()
    first, second = re.findall(r'rpc = \["(.+)"\]', policies)
    await rig.edit(policies.replace(f'["{first}"]', f'["{first}", "{second}"]'))
    await rig.ask("a", moe_cpu_layers="full")
    (backend,) = rig.proxy.app.services.pool.backends()
    layers = backend.engine.known().layers
    assert {layer.attention_device for layer in layers} == set(DEVICES)
    rig.nvml.change(others=await rig.at_rest() - RESERVE - 7 * layers[0].experts_bytes)
    await rig.at_rest()

    asking = asyncio.ensure_future(rig.controller.apply_request(backend, 0))
    await asyncio.sleep(0)  # it decides before it waits for anything
    goal = rig.controller.goal(backend) or {}
    await asking

    assert 0 < sum(place != CPU for place in goal.values()) <= 7


async def test_a_second_model_makes_the_first_one_shrink_not_leave(rig: Rig) -> None:
    """Room for one with all its experts, but for two only without some of them."""
    await rig.know_both()
    text_a = await rig.ask("a")
    await rig.all_of("a")
    rig.nvml.change(others=await rig.at_rest() - RESERVE - 5 * MIB)
    first = await rig.proxy.backend("a")

    text_b = await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [(b["model"], b["state"]) for b in backends] == [("a", "ready"), ("b", "ready")]
    assert (await rig.proxy.backend("a"))["pid"] == first["pid"]
    assert await rig.on_device("a") < LAYERS
    assert rig.moves_while_loading("b") == {("a", "room")}, "nobody grows into the room made"
    assert (await rig.ask("a"), await rig.ask("b")) == (text_a, text_b)


async def test_a_model_that_is_not_used_leaves_where_shrinking_is_not_enough(rig: Rig) -> None:
    await rig.know_both()
    await rig.ask("a")
    await rig.all_of("a")
    # Even without any of its experts, the first one leaves too little.
    experts = sum(x["experts_bytes"] for x in (await rig.proxy.backend("a"))["layers"])
    free = await rig.at_rest()
    rig.nvml.change(others=free + experts - RESERVE - 8 * MIB)

    await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [b["model"] for b in backends if b["state"] == "ready"] == ["b"]


async def test_a_model_that_holds_nothing_of_the_device_stays(rig: Rig) -> None:
    """It is the one that was not used for the longest time, and its end would help nobody."""
    await rig.with_one_on_the_cpu()
    await rig.know_both()
    await rig.ask("c")
    await rig.ask("a")
    await rig.all_of("a")
    experts = sum(x["experts_bytes"] for x in (await rig.proxy.backend("a"))["layers"])
    rig.nvml.change(others=await rig.at_rest() + experts - RESERVE - 8 * MIB)

    await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [b["model"] for b in backends if b["state"] == "ready"] == ["c", "b"]


async def test_where_only_strangers_could_make_room_it_is_tried_all_the_same(rig: Rig) -> None:
    """And is not waited for a model that is busy, but holds nothing of the device."""
    await rig.with_one_on_the_cpu()
    for name in "ab":
        await rig.ask(name)
        await rig.proxy.post(f"/admin/models/{name}/unload")
    rig.nvml.change(others=TOTAL)
    services = rig.proxy.app.services
    await services.memory.fresh()

    async with (
        await services.router.route(ModelRequest("c"), "generation"),
        asyncio.timeout(HANG_S),
    ):
        await asyncio.gather(rig.ask("a"), rig.ask("b"))


class Judge:
    """Looks at each decision right after it was made, at the very readings it was made from.

    So nothing here depends on how fast anything is. `wrong` says what broke a rule, where `low` is
    the reserve: from the first reading that shows less, all that is missing leaves at once.
    """

    def __init__(self, rig: Rig) -> None:
        self._services, self._controller = rig.proxy.app.services, rig.controller
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
            goal = self._controller.goal(backend) or {}
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


@pytest.mark.parametrize("rig", [{"low": "64MiB"}], indirect=True)
async def test_random_pressure_while_two_models_stream(rig: Rig, thorough: bool) -> None:
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
