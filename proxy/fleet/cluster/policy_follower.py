"""Has a machine's policy files follow the fleet's set, and the set follow an edit here."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final

import structlog

from proxy.fleet.cluster import policy_sync
from proxy.fleet.cluster.directory import Entry
from proxy.fleet.cluster.policy_sync import Folder
from proxy.policy.load import load
from proxy.policy.watch import watch
from proxy.threads import POLICIES

log = structlog.get_logger()

# An edit that no event has told of is found by then.
RECHECK_S: Final = 2.0
# Whoever saves a file has done so by then.
STEADY_S: Final = 0.05


class PolicyFollower:
    def __init__(
        self,
        folder: Folder,
        env: Mapping[str, str],
        put: Callable[[str, bytes | None], Awaitable[int]],
    ) -> None:
        """`put` has the fleet take a file, and returns its number."""
        self._folder, self._env, self._put = folder, env, put
        self._turn, self._edited = asyncio.Lock(), asyncio.Event()
        # What changes: the fleet's files as they are here, and edits that are not good yet.
        self._known: dict[str, Entry] = {}
        self._withheld: dict[str, bytes | None] = {}
        self._unreadable: frozenset[str] = frozenset()  # of which the log has told

    async def join(self, fleet: Mapping[str, Entry]) -> None:
        """Take the fleet's set; what is this machine's own is kept aside. Raises OSError, Hangs."""
        fleet = self._ours(fleet)
        async with self._turn:
            disk = await POLICIES.run(self._folder.read)
            given = await POLICIES.run(self._folder.given)
            plan = policy_sync.on_joining(disk, fleet, given)
            for name in plan.aside:
                kept = await POLICIES.run(self._folder.keep_aside, name)
                log.warning("fleet_policy_kept_aside", file=name, kept=str(kept))
            for name, text in plan.write.items():
                await POLICIES.run(self._folder.write, name, text, instead_of=disk.get(name))
            await self._know(fleet)

    async def heard(self, fleet: Mapping[str, Entry]) -> None:
        """The set, as it is now. A file that was edited here just now is left until that is told,
        which makes it the later edit."""
        async with self._turn:
            await self._write(fleet, edited_too=False)

    async def tell_edits(self, fleet: Callable[[], Mapping[str, Entry]]) -> None:
        """Each edit, until cancelled. `fleet`: the set as it was heard last."""
        while True:
            await self.look(fleet())
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await self._edited.wait()
            self._edited.clear()

    async def watch(self) -> None:
        """Notices edits, until cancelled."""
        while True:
            async with aclosing(watch(self._folder.path, self._env)) as changes:
                async for _ in changes:
                    self._edited.set()

    async def look(self, fleet: Mapping[str, Entry]) -> None:
        """Tell what was edited here, if it is good, and write what was edited elsewhere."""
        async with self._turn:
            disk = await self._steady()
            self._warn_of_unreadable()
            edits = self._edits(disk)
            if not edits:
                self._withheld = {}
            elif edits != self._withheld:
                loaded = await POLICIES.run(load, self._folder.path, self._env)
                if loaded.policies is None:
                    problems = [str(problem) for problem in loaded.problems]
                    log.warning(
                        "fleet_policy_stays_here", files=sorted(edits), problems=problems[:5]
                    )
                    self._withheld = edits
                else:
                    self._withheld = {}
                    await self._tell(edits)
            await self._write(fleet, edited_too=True)

    async def _tell(self, edits: Mapping[str, bytes | None]) -> None:
        told: dict[str, Entry] = {}
        try:
            for name, text in edits.items():
                told[name] = Entry(await self._put(name, text), text)
        finally:
            await self._know(told)

    def _warn_of_unreadable(self) -> None:
        if new := self._folder.unreadable - self._unreadable:
            problems = ["it cannot be read as a policy, or has a name that cannot be told"]
            log.warning("fleet_policy_stays_here", files=sorted(map(ascii, new)), problems=problems)
        self._unreadable = self._folder.unreadable

    async def _write(self, fleet: Mapping[str, Entry], *, edited_too: bool) -> None:
        """What others have changed. Raises OSError for one that cannot be written here, after all
        others."""
        failed: OSError | None = None
        written: dict[str, Entry] = {}
        disk = await POLICIES.run(self._folder.read)
        edits = self._edits(disk)
        try:
            for name, entry in policy_sync.news(self._ours(fleet), self._known).items():
                if name in edits and edits[name] != entry.text:
                    if not edited_too and self._withheld.get(name, b"") != edits[name]:
                        continue
                if disk.get(name) != entry.text:
                    try:
                        if not await POLICIES.run(
                            self._folder.write, name, entry.text, instead_of=disk.get(name)
                        ):
                            continue  # edited in this moment, of which we are told
                    except OSError as error:
                        failed = error
                        continue
                    log.info("fleet_policy_written", file=name, number=entry.number)
                self._withheld.pop(name, None)
                written[name] = entry
        finally:  # at once: there may be a thousand
            await self._know(written)
        if failed is not None:
            raise failed

    def _edits(self, disk: policy_sync.Files) -> dict[str, bytes | None]:
        """Of what was read just now."""
        return policy_sync.edits(disk, self._known, self._folder.unreadable)

    async def _know(self, entries: Mapping[str, Entry]) -> None:
        if news := policy_sync.news(entries, self._known):
            self._known.update(news)
            await POLICIES.run(self._folder.note, self._known)

    async def _steady(self) -> dict[str, bytes]:
        """The files, once nobody is writing them."""
        disk = await POLICIES.run(self._folder.read)
        for _ in range(10):
            if not self._edits(disk):
                break
            await asyncio.sleep(STEADY_S)
            before, disk = disk, await POLICIES.run(self._folder.read)
            if before == disk:
                break
        return disk

    def _ours(self, fleet: Mapping[str, Entry]) -> dict[str, Entry]:
        found = {name: each for name, each in fleet.items() if self._folder.takes(name)}
        if len(found) < len(fleet) and not self._known:
            log.warning(
                "fleet_policies_not_all_here",
                file=str(self._folder.path),
                missing=sorted(fleet.keys() - found.keys()),
                hint="a folder has room for all of them: MOE_PROXY_POLICIES, --policies",
            )
        return found
