"""Reads all memory, several times a second while any of it is ours, and tells whoever listens.

Each source has a thread of its own (`proxy.memory.reader`), so a driver that hangs or goes away
makes its own reading old and nothing else.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from proxy.clock import Bell, together
from proxy.engine.types import Device
from proxy.kernel.psi import told_of_pressure
from proxy.memory.host import read_host
from proxy.memory.nvidia import Driver, Nvidia
from proxy.memory.pace import CALM_POLL_S, IDLE_POLL_S, POLL_S, Pace
from proxy.memory.reader import Reader, ReadResult, Tell
from proxy.memory.readings import DeviceReading, HostReading, Sample
from proxy.memory.snapshot import Snapshot, device_reading, same_figures
from proxy.memory.sources import Cards, Source, choose, default_cards
from proxy.memory.sysfs import Sysfs
from proxy.memory.workers import AskWorkers, WorkerReader

log = structlog.get_logger()

# How long a poll waits for slow sources. Most of them answer in a millisecond.
PATIENCE_S = 0.1
# Whoever asks the workers waits for one that hangs, once and for less than this, and then says
# which devices it hides; until then those of the others are not to be blamed.
WORKERS_S = 3.0
# How long somebody waits for a poll. One takes as long as the sources may, twice that where another
# is under way: past this there is none any more, or it hangs.
FRESH_S = 5.0
# Cards come and go with their drivers only.
CARDS_S = 30.0
GGML = "ggml"

Pressure = Callable[[Callable[[], None]], AbstractContextManager[bool]]


class MemoryWatch:
    """The sampling loop. All methods belong to the event loop that `run` runs on.

    `setting` gives a device's `memory` of the policies, and is asked at each poll, so that an edit
    takes effect at once. `ask_workers` returns all devices as the workers report them now; without
    it, a ggml reading is as old as the last `set_devices`. `silent` names devices that only workers
    which do not answer would tell of. `holds`: whether what is loaded has memory of a device;
    `at_work`: whether any of it computes or moves.
    `pressure` has us told, for the length of a block, when programs wait for the machine's memory.
    """

    def __init__(
        self,
        *,
        setting: Callable[[str], str | None] = lambda _: None,
        ask_workers: AskWorkers | None = None,
        silent: Callable[[], Collection[str]] = frozenset,
        holds: Callable[[], bool] = lambda: True,
        at_work: Callable[[], bool] = lambda: True,
        pressure: Pressure = told_of_pressure,
        nvml: Driver | None = None,
        sysfs: Sysfs | None = None,
        host: Callable[[], HostReading] = read_host,
        now: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
        idle_poll_s: float = IDLE_POLL_S,
        patience_s: float = PATIENCE_S,
        fresh_s: float = FRESH_S,
        workers_s: float = WORKERS_S,
    ) -> None:
        self._setting = setting
        self._silent, self._pressure = silent, pressure
        self._holds, self._at_work = holds, at_work
        self._nvml: Driver = nvml or Nvidia()
        self._sysfs = sysfs or Sysfs()
        self._read_host = host
        self._now = now
        self._pace = Pace(poll_s, idle_poll_s)
        self._patience_s = patience_s
        self._fresh_s = fresh_s
        self._workers_s = workers_s
        self._listeners: list[Callable[[Snapshot], None]] = []
        # What changes: what there is to read, who reads it, and what came of it.
        self._devices: dict[str, Device] = {}
        self._pids: frozenset[int] = frozenset()
        self._cards = Cards()
        self._cards_due_s = 0.0
        self._sources: dict[str, Source] = {}
        self._chosen_by: tuple[object, object, list[str | None]] = (None, None, [])
        # Cards, until a worker has told which devices there are. Read once: asking wakes a card
        # that sleeps, and nothing is to be moved yet.
        self._unnamed: dict[str, DeviceReading] = {}
        self._unnamed_done = False
        self._readers: dict[str, Reader[Any]] = {}
        self._workers = WorkerReader(ask_workers, now)
        # Whether whoever was asked in this poll looks on, and rings where there is something new.
        self._calm = False
        self._snapshot = Snapshot()
        self._begun = 0
        self._told = False  # by the kernel, when programs wait for memory
        self._wake, self._answered = Bell(), Bell()
        self._published = asyncio.Event()

    def latest(self) -> Snapshot:
        """The last poll's result, without waiting."""
        return self._snapshot

    async def fresh(self) -> Snapshot:
        """A poll that begins after this call: what was done before it shows, where the driver shows
        it at once.

        Where none comes to its end in time, since it hangs or `run` does not run, it is the latest
        one, as old as its `at_s` says, and the log tells.
        """
        number = self._begun + 1
        self._pace.hurry()
        self._wake.ring()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._fresh_s):
                while self._snapshot.number < number:
                    await self._published.wait()
        if self._snapshot.number < number:
            age_s = round(self._now() - self._snapshot.at_s, 1) if self._snapshot.number else None
            log.warning("memory_not_fresh", waited_s=self._fresh_s, age_s=age_s)
        return self._snapshot

    async def recent(self) -> Snapshot:
        """The latest poll, or a fresh one where it was longer ago than while we hold memory."""
        most_s = CALM_POLL_S + 1.0 if self._calm else 2 * POLL_S
        young = self._now() - self._snapshot.at_s < most_s
        return self._snapshot if young else await self.fresh()

    def subscribe(self, listener: Callable[[Snapshot], None]) -> Callable[[], None]:
        """Call `listener` after each poll. Returns how to end that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def set_devices(self, devices: Iterable[Device]) -> None:
        """The devices to watch, as workers report them; the CPU is left out. Their numbers count as
        read now."""
        self._unnamed_done, self._unnamed = True, {}
        before = {(name, device.device_id) for name, device in self._devices.items()}
        self._devices = {device.name: device for device in devices if device.kind != "cpu"}
        self._workers.report(self._devices.values(), self._now())
        if before != {(name, device.device_id) for name, device in self._devices.items()}:
            self._cards_due_s = 0.0
            self.stir()

    def stir(self) -> None:
        """Something changed that readings are weighed by: look at once, and often for a while."""
        self._pace.stirred(self._now())
        self._wake.ring()

    async def policies_changed(self, *_: object) -> None:
        """What is read is weighed by other rules now."""
        self.stir()

    def set_pids(self, pids: Collection[int]) -> None:
        """The processes that are ours. None of them means that nothing is loaded."""
        if self._pids != (new := frozenset(pids)):
            self._pids = new
            self.stir()

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            with self._pressure(self._pressed) as self._told:
                while True:
                    self._wake.hush()
                    began = self._now()
                    await self._poll(began)
                    every = self._pace.interval_s(
                        self._now(), holds=self._holds_any(), told=self._told, calm=self._calm
                    )
                    await self._wake.wait(together(began + every - self._now()))
        finally:
            self._keep_readers(())
            self._workers.stop()

    def _holds_any(self) -> bool:
        return bool(self._pids and self._devices) and self._holds()

    def _pressed(self) -> None:
        """Programs wait for the machine's memory."""
        self._pace.pressed(self._now())
        self._wake.ring()

    async def _poll(self, began: float) -> None:
        self._begun += 1
        if (self._devices or not self._unnamed_done) and began >= self._cards_due_s:
            await self._look_for_cards(began)
        # From here on this poll is about these, whatever others are named while it waits.
        devices, first = self._devices, not self._unnamed_done
        unnamed = default_cards(self._cards) if first else []
        sources = self._choose(devices)
        host = self._reader("host", self._read_host)
        readers = [host, *(self._card_reader(source) for source in sources.values() if source.card)]
        readers += [self._card_reader(source) for _, source in unnamed]
        self._keep_readers({reader.name for reader in readers} | {"nvml cards", "sysfs cards"})
        # What an earlier poll asked and still waits for hangs. An answer that only missed the
        # patience of this poll does not: on a busy machine that may be all of them, and each is
        # good for the time at which it was true.
        hanging = {reader.name for reader in readers if reader.busy}
        if self._workers.hangs(began - self._workers_s):
            hanging.add(GGML)
        tell = self._tell(began)
        wanted = readers if self._pace.host_is_due(began) else readers[1:]
        asked = [reader for reader in wanted if self._ask(reader, None if reader is host else tell)]
        if host in asked:
            self._pace.host_asked(began, told=self._told)
        if host in asked and host.answer.at_s is None:
            # It is in files, and no picture is to be without it: the first time is waited for.
            await self._answers([host], patience_s=self._fresh_s)
        workers = any(source.kind == GGML for source in sources.values()) and self._workers.ask(
            self._answered.ring, self._wake.ring if tell else None
        )
        await self._answers(asked, patience_s=self._patience_s, workers=workers)
        if (workers and self._workers.busy) or any(reader.busy for reader in asked):
            self._calm = False  # whoever hangs does not look on: look soon whether it does
        if first and not self._unnamed_done:
            self._unnamed = {d.name: self._reading(d, s, hanging) for d, s in unnamed}
            read = [reading.at_s is not None for reading in self._unnamed.values()]
            self._unnamed_done = bool(read) and all(read) and began < self._cards_due_s
        self._publish(
            Snapshot(
                cards=self._unnamed,
                devices={
                    name: self._reading(devices[name], source, hanging)
                    for name, source in sources.items()
                },
                host=replace(host.answer.value or HostReading(), at_s=host.answer.at_s),
                number=self._begun,
                at_s=began,
            )
        )

    def _choose(self, devices: Mapping[str, Device]) -> Mapping[str, Source]:
        """Where each is read. Most polls are about the same as the one before."""
        settings = [self._setting(name) for name in devices]
        if (self._chosen_by[0] is not devices or self._chosen_by[1] is not self._cards) or (
            self._chosen_by[2] != settings
        ):
            self._chosen_by = devices, self._cards, settings
            self._sources = {
                name: choose(device, setting, self._cards)
                for (name, device), setting in zip(devices.items(), settings, strict=True)
            }
        return self._sources

    async def _look_for_cards(self, began: float) -> None:
        """List the cards anew. Ones that are known stay when their driver does not answer, so that
        a device keeps its source, and its reading says that it is old."""
        readers = [
            self._reader("nvml cards", self._nvml.cards),
            self._reader("sysfs cards", self._sysfs.cards),
        ]
        # Before the wait: devices that are named meanwhile have it done once more.
        self._cards_due_s = began + CARDS_S
        asked = [reader for reader in readers if self._ask(reader)]
        await self._answers(asked, patience_s=self._patience_s)
        nvml, sysfs = (reader.answer.value or () for reader in readers)
        self._cards = Cards(nvml=nvml or self._cards.nvml, sysfs=sysfs or self._cards.sysfs)
        if any(reader.busy for reader in readers):
            self._cards_due_s = began

    def _card_reader(self, source: Source) -> Reader[Any]:
        read = (
            partial(self._nvml.read, source.card or "")
            if source.kind == "nvml"
            else partial(self._sysfs.read, source.card or "", integrated=source.integrated)
        )
        return self._reader(str(source), read)

    def _reader(self, name: str, read: Callable[[], Any]) -> Reader[Any]:
        if name not in self._readers:
            self._readers[name] = Reader(name, read, self._now)
        return self._readers[name]

    def _keep_readers(self, names: Collection[str]) -> None:
        for name in [name for name in self._readers if name not in names]:
            # One that hangs is kept: should its card come back, it is not joined by a second one.
            if not self._readers[name].busy or not names:
                self._readers.pop(name).stop()

    def _tell(self, began: float) -> Tell | None:
        """Whether those that are asked in this poll are to look on, until they see something new:
        where we hold memory, all is well, and figures have stood still for a while."""
        well = not any(reading.stale for reading in self._snapshot.devices.values())
        still = well and self._pace.is_calm(began) and not self._at_work()
        self._calm = still and self._holds_any()
        return Tell(POLL_S, self._wake.from_threads()) if self._calm else None

    def _ask(self, reader: Reader[Any], tell: Tell | None = None) -> bool:
        return reader.ask(self._answered.from_threads(), tell)

    async def _answers(
        self, asked: list[Reader[Any]], *, patience_s: float, workers: bool = False
    ) -> None:
        """Wait for what was asked in this poll, not for what hangs since an earlier one."""
        until_s = time.monotonic() + patience_s
        while (workers and self._workers.busy) or any(reader.busy for reader in asked):
            if (left_s := until_s - time.monotonic()) <= 0:
                return
            await self._answered.wait(left_s)

    def _reading(self, device: Device, source: Source, hanging: Collection[str]) -> DeviceReading:
        answer: ReadResult[Sample] = ReadResult()
        hangs = False
        if source.card is not None:
            reader: Reader[Sample] = self._readers[str(source)]
            answer, hangs = reader.answer, reader.busy and reader.name in hanging
        elif source.kind == GGML:
            answer = self._workers.answer(device.name)
            hangs = (self._workers.busy and GGML in hanging) or device.name in self._silent()
        return device_reading(device, source, answer, hangs=hangs, pids=self._pids)

    def _publish(self, snapshot: Snapshot) -> None:
        for name, new in snapshot.devices.items():
            old = self._snapshot.devices.get(name)
            problem = old.problem if old else None
            if new.problem != problem:
                tell = log.warning if new.problem else log.info
                tell("device_memory", device=name, source=new.source, problem=new.problem)
        if not same_figures(self._snapshot, snapshot):
            self._pace.stirred(snapshot.at_s)
            self._calm = False
        self._snapshot = snapshot
        published, self._published = self._published, asyncio.Event()
        published.set()
        for listener in list(self._listeners):
            try:
                listener(snapshot)
            except Exception:
                log.exception("memory_listener_failed")
