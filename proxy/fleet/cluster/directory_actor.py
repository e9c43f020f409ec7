"""The directory as an actor of Ray: one for the fleet, which all supervisors follow."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog

from proxy.fleet.cluster import machines
from proxy.fleet.cluster.directory import Directory, Memory, News, Report, Setup
from proxy.tasks import spawn

log = structlog.get_logger()

# A long poll is answered by then, so that who asks knows that it is heard.
POLL_S: Final = 10.0
LOOK_S: Final = 1.0
# After a new beginning: who knows of the time before has told by then.
REMINDED_S: Final = 10.0


class DirectoryActor:
    """Its methods run on one loop: nothing changes between two awaits."""

    def __init__(self) -> None:
        import ray

        self._directory = Directory()
        self._changed = asyncio.Condition()
        self._began_s = time.monotonic()
        self._told_s: dict[str, float] = {}  # by name: when its supervisor told last
        self._new = not ray.get_runtime_context().was_current_actor_reconstructed
        if self._new:
            self._directory.make_key()
        self._by_resource: bool | None = None  # as the fleet was deployed
        self._watching: asyncio.Task[None] | None = None

    async def ready(self) -> str:
        """Which life this is; from then on it looks after the machines."""
        if self._watching is None:
            self._watching = spawn(self._watch(), name="machines")
        return self._directory.life

    async def remind(self, memory: Memory) -> None:
        self._directory.remind(memory)
        await self._tell()

    async def join(self, machine: str, wanted: str) -> str:
        await self._known()
        # Who was called so before may be gone since a moment ago: then the name is free.
        self._directory.keep({machine, *await self._machines()})
        name = self._directory.join(machine, wanted)
        await self._tell()
        return name

    async def setup(self, machine: str, setup: Setup) -> Setup:
        await self._known()
        found = self._directory.setup(machine, setup)
        await self._tell()
        return found

    async def tell(self, report: Report) -> str:
        """Which life this is: to another one than before, what is known has to be told again."""
        self._directory.tell(report)
        self._told_s[report.name] = time.monotonic()
        await self._tell()
        return await self.ready()

    async def news(self, after: int, life: str | None) -> News | None:
        """What there is beyond a version of this life; None: nothing new."""
        await self._known()
        directory = self._directory
        if life == directory.life and directory.version <= after:
            try:
                async with asyncio.timeout(POLL_S), self._changed:
                    await self._changed.wait_for(lambda: directory.version > after)
            except TimeoutError:
                return None
        return directory.news()

    async def seed(self, files: Mapping[str, bytes]) -> bool:
        await self._known()
        found = self._directory.seed(files)
        await self._tell()
        return found

    async def put(self, name: str, text: bytes | None) -> int:
        await self._known()
        number = self._directory.put(name, text)
        log.info("fleet_policy", file=name, number=number, removed=text is None)
        await self._tell()
        return number

    async def drain(self, name: str, draining: bool, within_s: float | None) -> str | None:
        """Why not, where that is so."""
        await self._known()
        try:
            self._directory.drain(name, draining=draining, within_s=within_s)
        except LookupError as error:
            return str(error.args[0])
        await self._tell()
        return None

    async def status(self) -> dict[str, Any]:
        """For commands: what each supervisor told last, how many seconds ago, and the key to ask
        its node."""
        await self._known()
        directory = self._directory
        now_s = time.monotonic()
        return {
            "key": directory.key,
            "reports": directory.reports,
            # One that others remember, and that has not told yet, is as old as we are.
            "ages": {
                each.name: now_s - self._told_s.get(each.name, self._began_s)
                for each in directory.reports
            },
            "draining": [each.name for each in directory.reports if directory.drains(each.name)],
            "machines": len(await self._machines()),
        }

    async def _machines(self) -> frozenset[str]:
        """Those that are to be nodes."""
        if self._by_resource is None:
            self._by_resource = await asyncio.to_thread(machines.deployed_by_resource)
        return await asyncio.to_thread(machines.wanted, self._by_resource)

    async def _known(self) -> None:
        """Returns once it is known which key there is."""
        while self._directory.key is None:
            left_s = REMINDED_S - (time.monotonic() - self._began_s)
            if left_s <= 0:
                log.warning("fleet_key_is_new", hint="no supervisor knew of the one before")
                self._directory.make_key()
                break
            async with self._changed:
                try:
                    async with asyncio.timeout(left_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _watch(self) -> None:
        """Who is there; and as many replicas as there are machines that are to be nodes."""
        replicas: int | None = None
        while True:
            try:
                there = await self._machines()
                before = self._directory.version
                self._directory.keep(there)
                if self._directory.version != before:
                    await self._tell()
                if there and len(there) != replicas:
                    await asyncio.to_thread(machines.set_replicas, len(there))
                    replicas = len(there)
            except Exception as error:
                log.warning("machines_not_looked_at", reason=repr(error))
                replicas = None
            await asyncio.sleep(LOOK_S)
