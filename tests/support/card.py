"""A proxy on a card that others use too: the stand-in of NVIDIA's driver, which pynvml really
loads, shows as a card what real RPC servers hold for real workers."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.control.controller import Controller
from proxy.control.desired import DesiredStates
from proxy.pool.state import Backend
from tests.support.control import controller_of, desired_of
from tests.support.guard import HANG_S, until
from tests.support.llama import RpcServer, rpc_server
from tests.support.models import model
from tests.support.nvml import RETURNS_MEMORY, StandInCard, StandInNvml
from tests.support.policies import Table, policies
from tests.support.proxy import Proxy, proxy

MIB = 1 << 20
TOTAL, RESERVE = 1024 * MIB, 64 * MIB
LAYERS = 12
# Which makes 4917 GB/s, more than any main memory.
SPEED = StandInCard(bus_bits=6144, clock_mhz=3201)
# About 13 MiB of experts a layer.
SIZES = {"width": 512, "expert_width": 512, "experts": 16}
DEVICES = ("RPC0", "RPC1")
ON_CARD = {"memory": "nvml:GPU-0"}
BODY = {"prompt": "the quick brown fox", "max_tokens": 8, "temperature": 0}


class CardRig:
    """The proxy, the RPC servers by the model that uses them, and the hand that changes what others
    take of the card. Made by `card_rig`.

    The card shows each server's memory from its start to its end, as its own process or, while a
    worker uses it, as that worker.
    """

    def __init__(self, nvml: StandInNvml, servers: Mapping[str, RpcServer]) -> None:
        self.nvml, self.servers = nvml, servers
        self.models: dict[str, Table] = {
            name: {"path": model(sizes=SIZES, seed=seed), "rpc": [servers[name]]}
            for seed, name in enumerate(servers)
        }
        self.devices: dict[str, Any] = {"reserve": RESERVE, "low": RESERVE // 2, "settle": "300ms"}
        self.devices |= dict.fromkeys(DEVICES, ON_CARD)
        self._shown_as: dict[str, int] = {}
        self.proxy: Proxy

    def text(self, models: Mapping[str, Table], devices: Table) -> str:
        """The policies, with these keys changed for good, or added."""
        self.models |= {name: {**self.models.get(name, {}), **own} for name, own in models.items()}
        self.devices |= devices
        defaults = {"ctx": 512, "parallel": 2, "keep_alive": "-1", "repack": "off"}
        return policies(self.models, devices=self.devices, defaults=defaults)

    async def edit(self, models: Mapping[str, Table] | None = None, **devices: object) -> None:
        """Save such policies, and wait until they hold."""
        await self.proxy.apply(self.text(models or {}, devices))

    def watch(self) -> None:
        """Show on the card who uses it, from now on."""
        pool = self.proxy.app.services.pool
        for name, server in self.servers.items():
            self._show(name, server.pid)
        pool.hooks.subscribe(
            ready=lambda backend: self._changed(backend, backend.engine.pid or 0),
            gone=lambda backend: self._changed(backend, 0),
        )

    def _changed(self, backend: Backend, pid: int) -> None:
        if server := self.servers.get(name := backend.options.model):
            self._show(name, pid or server.pid)

    def _show(self, name: str, pid: int) -> None:
        before = self._shown_as.get(name, 0)
        self.nvml.process(pid, follows=self.servers[name].pid, instead_of=before)
        self._shown_as[name] = pid

    @property
    def controller(self) -> Controller:
        return controller_of(self.proxy.app.services)

    @property
    def desired(self) -> DesiredStates:
        return desired_of(self.proxy.app.services)

    async def ask(self, name: str, **more: object) -> str:
        answer = await self.proxy.post("/v1/completions", BODY | {"model": name} | more)
        return str(answer["choices"][0]["text"])

    async def know(self, *names: str) -> None:
        """Have these models' devices known: it is from a worker that used them."""
        for name in names:
            await self.ask(name)
            await self.proxy.post(f"/admin/models/{name}/unload")

    async def on_device(self, name: str) -> int:
        """How many layers' experts of a model are not on the CPU."""
        layers = (await self.proxy.backend(name))["layers"]
        return sum(layer["experts"] != "CPU" for layer in layers)

    async def all_of(self, name: str) -> None:
        """Wait until all experts of a model are on its device."""

        async def there() -> bool:
            return await self.on_device(name) == LAYERS

        await until(there, f"all experts of {name} are on the device", self.state)

    async def state(self) -> object:
        state = await self.proxy.get("/admin/state")
        return state["devices"], state["backends"]

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
                moving = any(map(self.desired.moving, services.pool.backends()))
                before, moved = moved, self._last_move()
                if moving or not settled or moved != before:
                    quiet_s = time.monotonic()
                elif read and all(not r.stale and (r.at_s or 0.0) >= quiet_s for r in read):
                    return min(r.free_bytes or 0 for r in read)
                await asyncio.sleep(0.02)

    def _last_move(self) -> int:
        events = self.proxy.app.services.events.since(0)
        return max((event.id for event in events if event.kind == "moved"), default=0)


@contextlib.asynccontextmanager
async def card_rig(
    folder: Path,
    names: Iterable[str] = "ab",
    *,
    models: Mapping[str, Table] | None = None,
    **devices: object,
) -> AsyncIterator[CardRig]:
    """A proxy with a model for each of `names`, all alike, each with a server of its own."""
    nvml = StandInNvml(folder, replace(SPEED, total=TOTAL))
    variable, _, value = RETURNS_MEMORY.partition("=")
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(rpc_server(1, **{variable: value}))
            for name in names
        }
        stack.enter_context(nvml.loaded())
        rig = CardRig(nvml, servers)
        text = rig.text(models or {}, devices)
        rig.proxy = await stack.enter_async_context(proxy(folder, text))
        rig.watch()
        yield rig
