"""A pool over real processes: small gated servers, or llama-server itself."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from proxy.clock import Clock, RealClock
from proxy.engine.command import CommandEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import Engine, LoadOptions
from proxy.observe.events import EventLog
from proxy.pool.events import MatchPolicy
from proxy.pool.hooks import Hooks
from proxy.pool.pool import Pool
from tests.support.commands import GATED
from tests.support.gates import Gate

MakeEngine = Callable[[str, LoadOptions], Engine]


class Gated(CommandEngine):
    """Takes down that it was started."""

    def __init__(self, backend_id: str, options: LoadOptions, house: "House") -> None:
        super().__init__(backend_id, options, log_buffer=house.log_buffer)
        self._name, self._house = backend_id, house

    async def start(self) -> None:
        self._house.loads.append(self._name)
        await super().start()


class House:
    """A pool, its surroundings and its clients."""

    def __init__(self, folder: Path, http: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.http = http
        self.log_buffer = LogBuffer()
        self.events = EventLog()
        self.made: list[str] = []  # ids of the engines made: one for each start
        self.loads: list[str] = []  # ids of those that began to load a model
        self.gates: list[Gate] = []
        self.pools: list[Pool] = []

    def pool(
        self,
        *,
        max_queue: int = 100,
        clock: Clock | None = None,
        make: MakeEngine | None = None,
    ) -> Pool:
        def make_gated(backend_id: str, options: LoadOptions) -> Engine:
            self.made.append(backend_id)
            # What a hosted engine would load, a small server stands for.
            command = options.command if options.engine == "command" else GATED
            args = options.args if options.engine == "command" else ()
            known = replace(options, command=command, args=args)
            return Gated(backend_id, known, self)

        pool = Pool(
            make or make_gated,
            hooks=Hooks(),
            max_queue=max_queue,
            clock=clock or RealClock(),
            events=self.events,
        )
        self.pools.append(pool)
        return pool

    def gate(self) -> Gate:
        self.gates.append(Gate(self.folder / f"gate{len(self.gates)}"))
        return self.gates[-1]

    def options(
        self, model: str = "m", *args: str, ctx: int = 8192, split: int | None = None
    ) -> LoadOptions:
        return LoadOptions(
            model,
            Path("no.gguf"),
            ctx=ctx,
            split=split,
            engine="command",
            command=GATED,
            args=args,
        )

    async def client(
        self,
        pool: Pool,
        options: LoadOptions,
        *gates: Gate | None,
        **how: float | MatchPolicy | None,
    ) -> list[bytes]:
        """One request from its arrival to its last byte: the pieces of the answer."""
        async with await pool.acquire(options, **how) as lease:  # type: ignore[arg-type]
            url = f"{lease.backend.engine.address.origin}/v1/chat/completions"
            body = {"gates": [gate and gate.path for gate in gates]}
            async with self.http.post(url, json=body) as answer:
                return [line async for line in answer.content if line.strip()]

    def kinds(self) -> list[str]:
        """The events so far: what kind, and whose."""
        return [f"{e.fields['backend']} {e.kind}" for e in self.events.since(0)]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        house = House(tmp_path, http)
        yield house
        for pool in house.pools:
            await pool.drain(0.0)
            assert "queue=0/" in repr(pool)
        for gate in house.gates:
            gate.close()
