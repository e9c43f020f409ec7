"""Conversations go on where a model's worker is replaced: what its slots hold is brought into the
next one.

Where a successor loads beside the old worker, it gets what the old one's idle slots hold when it
has loaded, while that one still serves; and when the old one has finished its last answers, what
has changed since. Where the old one has to be gone first, its slots are in files meanwhile, and so
they are after an unload, where the policies give room for that.

All of it is for speed: whatever goes wrong costs a prompt that is read again, and is told.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.engine.arguments import saves_slots
from proxy.engine.types import LoadOptions
from proxy.errors import Hangs
from proxy.observe.events import EventLog
from proxy.pool.selection import is_meant_for, is_replaced
from proxy.pool.state import Backend, BackendState, Name
from proxy.slots.carrier import Carrier, Holder, stamp_of
from proxy.slots.client import SlotError
from proxy.slots.files import SlotFiles
from proxy.slots.outcome import Outcome
from proxy.slots.shelf import Shelf
from proxy.slots.transferable import Stamp
from proxy.tasks import spawn
from proxy.threads import MODELS

# So long a start or a stop waits for all of its slots together. Somebody may wait for either, and
# would rather have a prompt read again than wait for a slow disk or a worker that hangs.
CARRY_S = 10.0


class PromptKeeper:
    """One for all backends. Its public methods are what the pool's hooks call."""

    def __init__(
        self,
        *,
        backends: Callable[[], list[Backend]],
        files: SlotFiles,
        keep_bytes: Callable[[], int],
        events: EventLog,
        carry_s: float = CARRY_S,
    ) -> None:
        """`keep_bytes`: what the slots of unloaded models may take together, as of now. `carry_s`:
        how long a start or a stop waits."""
        self._backends, self._files, self._keep_bytes = backends, files, keep_bytes
        self._events, self._carry_s = events, carry_s
        self._carrier = Carrier(files)
        # What changes: the backends whose slots can be saved, and those of backends that are gone.
        self._holders: dict[Name, Holder] = {}
        self._shelf = Shelf()
        self._arriving: dict[Name, asyncio.Future[None]] = {}

    def arriving(self, backend: Backend) -> "asyncio.Future[None] | None":
        """Done when what is being brought into this backend is there; None where nothing is."""
        return self._arriving.get(backend.name)

    async def before_start(self, backend: Backend) -> None:
        if saves_slots(backend.options):
            self._holders[backend.name] = Holder(backend, await _stamp_of(backend.options))

    async def loaded(self, new: Backend) -> None:
        """Bring in what those have that it replaces, and what is in files."""
        taker = self._holders.get(new.name)
        if taker is None:
            return
        if await _stamp_of(new.options) != taker.stamp:
            taker.stamp = None
        for old in self._backends():
            giver = self._holders.get(old.name)
            if giver and old.state is BackendState.READY and is_replaced(old, new):
                await self._pass_on(giver, taker, last=False)
        if saved := self._shelf.take(new.options.model):
            outcome = Outcome()
            await self._bounded(self._carrier.take_in(saved, taker, outcome), outcome)
            self._tell(outcome, "prompts_kept", new, was="unloaded")

    async def before_stop(self, old: Backend) -> None:
        """Pass on what it has, to whoever takes its place."""
        giver = self._holders.get(old.name)
        if giver is None:
            return
        same = [
            b for b in self._backends() if b is not old and b.options.model == old.options.model
        ]
        takers = [self._holders.get(b.name) for b in same if b.state is BackendState.READY]
        if taker := next(filter(None, takers), None):
            await self._pass_on(giver, taker, last=True)
            return
        comes = any(
            b.state is BackendState.STARTING and (old.name in b.blocked_by or is_meant_for(old, b))
            for b in same
        )
        if comes or self._keep_bytes():
            outcome = Outcome()
            await self._bounded(self._put_away(giver, comes=comes, outcome=outcome), outcome)
            self._tell(outcome, "prompts_saved", old)

    def gone(self, backend: Backend) -> None:
        if self._holders.pop(backend.name, None) is None:
            return
        self.trim()
        # A worker that was given up may have written a file that nobody waited for any more.
        sweep = asyncio.to_thread(self._files.sweep, backend.id, self._shelf.files())
        spawn(sweep, name=f"{backend.id}:sweep")

    def trim(self) -> None:
        """Remove of what is in files what is too much by now."""
        starting = {b.options.model for b in self._backends() if b.state is BackendState.STARTING}
        self._carrier.remove(self._shelf.trim(self._keep_bytes(), needed=starting))

    async def _pass_on(self, giver: Holder, taker: Holder, *, last: bool) -> None:
        outcome, name = Outcome(), taker.backend.name
        arrival = self._arriving[name] = asyncio.get_running_loop().create_future()
        try:
            await self._bounded(self._carrier.pass_on(giver, taker, outcome, last=last), outcome)
        finally:
            arrival.set_result(None)
            if self._arriving.get(name) is arrival:
                del self._arriving[name]
        self._tell(outcome, "prompts_kept", taker.backend, was=giver.backend.id)

    async def _put_away(self, giver: Holder, *, comes: bool, outcome: Outcome) -> None:
        """`comes`: somebody waits for its end to take its place, and the limit is not for that."""
        room = None if comes else self._keep_bytes()
        for saved in await self._carrier.put_away(giver, room, outcome):
            self._shelf.put(saved)
        self.trim()

    async def _bounded(self, work: Coroutine[Any, Any, None], outcome: Outcome) -> None:
        try:
            async with asyncio.timeout(self._carry_s):
                await work
        except TimeoutError:
            outcome.lost(None, f"it was not done within {self._carry_s:g} s")
        except SlotError as error:
            outcome.lost(None, str(error))

    def _tell(self, outcome: Outcome, kind: str, backend: Backend, **more: str) -> None:
        about = {"backend": backend.id, "model": backend.options.model, **more}
        if outcome.conversations:
            self._events.publish(kind, **about, **outcome.counts())
        if outcome.reasons:
            why = "; ".join(outcome.reasons)
            self._events.publish("prompts_lost", **about, tokens=outcome.lost_tokens, why=why)


async def _stamp_of(options: LoadOptions) -> Stamp | None:
    try:
        return await MODELS.run(stamp_of, options)
    except Hangs:  # its disk does: nothing is known of it
        return None
