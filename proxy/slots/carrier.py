"""Carries conversations from one worker's slots into another's, by way of files. Everything here
may fail, and is then told in the outcome: it costs a prompt that is read again."""

import asyncio
from dataclasses import dataclass, field

from proxy.catalog.gguf import GgufError
from proxy.catalog.headers import header_at
from proxy.catalog.parts import parts_of
from proxy.engine.types import LoadOptions
from proxy.errors import Hangs, reason_of
from proxy.pool.state import Backend, Name
from proxy.slots.client import SlotError, restore, save, slots_of
from proxy.slots.files import SlotFiles
from proxy.slots.outcome import Outcome
from proxy.slots.shelf import Saved
from proxy.slots.transferable import (
    FEWEST_TOKENS,
    NO_PLACE,
    Slot,
    Stamp,
    bytes_a_token,
    files_of,
    unused,
    why_not_kept,
    why_not_taken,
    why_not_this,
    worth_saving,
)
from proxy.tasks import spawn
from proxy.threads import MODELS

OTHER_FILE = "the model's file is another one"


@dataclass(slots=True)
class Holder:
    """One start of a backend, and what is known of its slots."""

    backend: Backend
    stamp: Stamp | None  # of the files that it has loaded; None: nobody knows of which
    # Slot -> the task as of which it was passed on, or told to be lost.
    dealt_with: dict[int, int | None] = field(default_factory=dict)
    passed_on: dict[int, tuple[Name, int]] = field(default_factory=dict)  # to whom, in which slot
    filled: set[int] = field(default_factory=set)  # slots that were restored


class Carrier:
    """One for all backends."""

    def __init__(self, files: SlotFiles) -> None:
        self._files = files

    async def pass_on(self, old: Holder, new: Holder, outcome: Outcome, *, last: bool) -> None:
        """Bring into `new` what `old` has in idle slots and has not passed on yet; `last`: in busy
        ones too, whose answers nobody reads. Raises SlotError where one of them does not even tell
        of its slots."""
        slots = await self._worth_saving(old, last=last)
        if not slots:
            return
        why, size = await self._judge(old, new.backend.options, new.stamp)
        for slot in slots:
            old.dealt_with[slot.id] = slot.task
            place = None if why else await self._place(slot, old, new)
            reason = why or why_not_this(slot, new.backend.options, place)
            if reason is not None:
                outcome.lost(slot.tokens, reason)
            elif saved := await self._save(old, slot, size, outcome):
                try:
                    # A request may have come for that place while the slot was saved.
                    place = await self._place(slot, old, new)
                    if place is None:
                        outcome.lost(slot.tokens, NO_PLACE)
                    elif await self._restore(saved, new, place, outcome):
                        old.passed_on[slot.id] = (new.backend.name, place)
                finally:
                    self._remove(saved.file)

    async def put_away(self, old: Holder, room_bytes: int | None, outcome: Outcome) -> list[Saved]:
        """Save what `old` has, for later; `room_bytes` at most, where there is such a limit. Raises
        SlotError where it does not even tell of its slots."""
        slots = await self._worth_saving(old, last=True)
        found: list[Saved] = []
        if not slots:
            return found
        why, size = await self._judge(old, old.backend.options, old.stamp)
        for slot in slots:
            reason = why or why_not_this(slot, old.backend.options, slot.id)
            if reason is not None:
                outcome.lost(slot.tokens, reason)
            elif saved := await self._save(old, slot, size, outcome, room_bytes):
                outcome.kept(saved.tokens, saved.bytes)
                found.append(saved)
                room_bytes = None if room_bytes is None else room_bytes - saved.bytes
        return found

    async def take_in(self, saved: list[Saved], new: Holder, outcome: Outcome) -> None:
        """Restore what was put away; the files are gone then, whatever came of it. Raises SlotError
        where `new` does not even tell of its slots."""
        try:
            places = await slots_of(new.backend.engine.address)
            for one in saved:
                place = next(iter(unused(places, new.filled)), None)
                why = await self._why_not_saved(one, new)
                if why is not None or place is None:
                    outcome.lost(one.tokens, why or NO_PLACE)
                else:
                    await self._restore(one, new, place, outcome)
        finally:
            self.remove(saved)

    def remove(self, saved: list[Saved]) -> None:
        for one in saved:
            self._remove(one.file)

    def _remove(self, file: str) -> None:
        # A large file in RAM takes a moment, for which nobody has to wait.
        spawn(asyncio.to_thread(self._files.remove, file), name="slots:remove")

    # --- which, and whether ---

    async def _worth_saving(self, old: Holder, *, last: bool) -> list[Slot]:
        slots = await slots_of(old.backend.engine.address)
        return worth_saving(slots, done=old.dealt_with, filled=old.filled, last=last)

    async def _place(self, slot: Slot, old: Holder, new: Holder) -> int | None:
        """The slot of `new` for one of `old`: where an earlier part of the same conversation is, as
        long as nobody has gone on with that; else one that nobody has used."""
        places = await slots_of(new.backend.engine.address)
        before = old.passed_on.get(slot.id)
        if before is not None and before[0] == new.backend.name:
            return next((p.id for p in places if p.id == before[1] and p.task is None), None)
        return next(iter(unused(places, new.filled)), None)

    async def _judge(
        self, old: Holder, new: LoadOptions, stamp: Stamp | None
    ) -> tuple[str | None, int]:
        """Why nothing of `old` is of use to `new`, or None; and how large a slot is for each
        token."""
        if old.stamp is None or stamp is None:
            return "the model's file changed while it was loaded", 0
        if old.stamp != stamp:
            return OTHER_FILE, 0
        return await _judged(old.backend.options, new)

    async def _why_not_saved(self, saved: Saved, new: Holder) -> str | None:
        if saved.stamp != new.stamp:
            return OTHER_FILE
        return (await _judged(saved.options, new.backend.options))[0]

    # --- files ---

    async def _save(
        self,
        old: Holder,
        slot: Slot,
        bytes_each: int,
        outcome: Outcome,
        limit_bytes: int | None = None,
    ) -> Saved | None:
        backend, stamp = old.backend, old.stamp
        room = await asyncio.to_thread(self._files.room_bytes)
        if limit_bytes is not None:
            room = min(room, limit_bytes)
        size = bytes_each * (slot.tokens or 0)
        if stamp is None or size >= room:
            outcome.lost(
                slot.tokens, f"there is no room for it: {size} bytes, and there are {room}"
            )
            return None
        file, whole = self._files.new_name(backend.id), False
        try:
            tokens, written = await save(backend.engine.address, slot.id, file)
            on_disk = await asyncio.to_thread(self._files.size_bytes, file)
            whole = tokens >= FEWEST_TOKENS and on_disk == written
            if whole:
                return Saved(file, backend.options, stamp, tokens, written)
            if on_disk != written:
                outcome.lost(slot.tokens, f"{on_disk} of {written} bytes were written")
        except SlotError as error:
            outcome.lost(slot.tokens, f"it could not be saved: {error}")
        finally:
            if not whole:
                self._remove(file)
        return None

    async def _restore(self, saved: Saved, new: Holder, place: int, outcome: Outcome) -> bool:
        """Whether it is there now."""
        new.filled.add(place)
        try:
            await restore(new.backend.engine.address, place, saved.file)
        except SlotError as error:
            outcome.lost(saved.tokens, f"it could not be restored: {error}")
            return False
        outcome.kept(saved.tokens, saved.bytes)
        return True


def stamp_of(options: LoadOptions) -> Stamp | None:
    """What tells the files that would be loaded now from others. Blocks. None where one cannot be
    looked at."""
    try:
        files = files_of(parts_of(options.path), options)
        stats = [(str(file), file.stat()) for file in files]
    except (OSError, GgufError):
        return None
    return tuple(
        (name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats
    )


def _judge_by_header(old: LoadOptions, new: LoadOptions) -> tuple[str | None, int]:
    """Blocks."""
    try:
        header = header_at(old.path)
    except (GgufError, OSError) as error:
        return f"the model's header cannot be read: {reason_of(error)}", 0
    why = why_not_kept(old, header) or why_not_taken(old, new, header)
    return why, bytes_a_token(header)


async def _judged(old: LoadOptions, new: LoadOptions) -> tuple[str | None, int]:
    try:
        return await MODELS.run(_judge_by_header, old, new)
    except Hangs as error:
        return error.message, 0
