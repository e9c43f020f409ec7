"""The sampling loop, with the real binding, real threads, and drivers that misbehave."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.engine.types import Device
from proxy.memory.nvml import Nvml
from proxy.memory.pace import CALM_AFTER_S
from proxy.memory.readings import Card, DeviceReading, HostReading
from proxy.memory.snapshot import Snapshot
from proxy.memory.watch import PATIENCE_S, MemoryWatch
from tests.support.guard import HANG_S
from tests.support.nvml import DRIVER_NOT_LOADED, GPU_IS_LOST, StandInCard, StandInNvml

GIB = 1 << 30
CPU = Device("CPU", "", "cpu", 8 * GIB, 4 * GIB)
CUDA0 = Device("CUDA0", "RTX", "gpu", 8 * GIB, 8 * GIB, "0000:c1:00.0")
NOT_READ = DeviceReading("", "", "")
CUDA1 = Device("CUDA1", "GTX", "gpu", 8 * GIB, 8 * GIB, "0000:c2:00.0")
RPC0 = Device("RPC0", "far away", "gpu", 4 * GIB, 3 * GIB)
a_watch = partial(MemoryWatch, fresh_s=HANG_S)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StandInNvml]:
    stand_in = StandInNvml(tmp_path, StandInCard(others=GIB), StandInCard(others=2 * GIB))
    with stand_in.loaded():
        yield stand_in


@asynccontextmanager
async def running(watch: MemoryWatch) -> AsyncIterator[MemoryWatch]:
    async with asyncio.timeout(HANG_S):
        task = asyncio.create_task(watch.run())
        yield watch
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(watch: MemoryWatch, name: str, **fields: object) -> DeviceReading:
    """Poll until the reading of a device has these fields."""
    while True:
        reading = (await watch.fresh()).devices.get(name)
        if reading and all(getattr(reading, field) == want for field, want in fields.items()):
            return reading


async def test_devices_are_read_where_their_driver_tells_most(driver: StandInNvml) -> None:
    driver.process(7, used=GIB)
    watch = a_watch(patience_s=HANG_S)
    watch.set_devices([CPU, CUDA0, CUDA1, RPC0])
    watch.set_pids([7])

    async with running(watch):
        readings = (await watch.fresh()).devices

    assert {name: reading.source for name, reading in readings.items()} == {
        "CUDA0": "nvml:GPU-0",
        "CUDA1": "nvml:GPU-1",
        "RPC0": "ggml",
    }
    assert {name: reading.free_bytes for name, reading in readings.items()} == {
        "CUDA0": 6 * GIB,
        "CUDA1": 6 * GIB,
        "RPC0": 3 * GIB,
    }
    assert (readings["CUDA0"].ours_bytes, readings["CUDA0"].others_bytes) == (GIB, GIB)


async def test_a_policy_points_a_device_anywhere_and_at_once(driver: StandInNvml) -> None:
    settings: dict[str, str] = {}
    watch = a_watch(patience_s=HANG_S, setting=settings.get)
    watch.set_devices([RPC0])

    async with running(watch):
        assert (await watch.fresh()).devices["RPC0"].source == "ggml"
        settings["RPC0"] = "nvml:GPU-1"
        reading = (await watch.fresh()).devices["RPC0"]

    assert (reading.source, reading.free_bytes) == ("nvml:GPU-1", 6 * GIB)


async def test_a_hanging_card_makes_its_own_reading_old_and_no_other(driver: StandInNvml) -> None:
    watch = a_watch(poll_s=0.01)
    watch.set_devices([CUDA0, CUDA1])
    watch.set_pids([7])
    threads = set()

    async with running(watch):
        before = await until(watch, "CUDA0", stale=False, source="nvml:GPU-0")
        driver.change(0, hang_s=float("inf"))
        hanging = await until(watch, "CUDA0", stale=True)
        driver.change(1, others=5 * GIB)

        began = asyncio.get_running_loop().time()
        for _ in range(20):
            snapshot = await watch.fresh()
            threads.add(threading.active_count())
        took_s = asyncio.get_running_loop().time() - began

        await until(watch, "CUDA1", free_bytes=3 * GIB, stale=False)
        assert snapshot.host.available_bytes
        assert snapshot.devices["CUDA0"] == hanging
        assert (hanging.free_bytes, hanging.problem) == (before.free_bytes, "does not answer")
        # Only the first poll that meets the hanging call waits for it at all.
        assert took_s < 20 * PATIENCE_S
        assert len(threads) == 1

        driver.change(0, hang_s=0.0, others=0)
        back = await until(watch, "CUDA0", stale=False, free_bytes=8 * GIB)
        assert back.problem is None


async def test_answers_that_miss_every_poll_are_good_all_the_same(driver: StandInNvml) -> None:
    """On a machine that is busy enough, no source answers within a poll's patience."""
    watch = a_watch(poll_s=0.1, patience_s=0)
    watch.set_devices([CUDA0])
    watch.set_pids([7])
    driver.change(0, others=5 * GIB, hang_s=0.02)
    good: list[bool] = []
    enough = asyncio.Event()

    def look(snapshot: Snapshot) -> None:
        reading = snapshot.devices["CUDA0"]
        if reading.free_bytes == 3 * GIB:
            good.append(not reading.stale)
        if len(good) == 20:
            enough.set()

    async with running(watch):
        assert (await watch.fresh()).host.available_bytes, "what is in files is waited for"
        watch.subscribe(look)
        await enough.wait()

    # All of them where a call takes less than from one poll to the next.
    assert good[:20].count(True) >= 5


async def test_a_device_that_comes_back_while_it_hangs_is_read_by_the_same_thread(
    driver: StandInNvml,
) -> None:
    watch = a_watch(poll_s=0.01)
    watch.set_devices([CUDA0])

    async with running(watch):
        await until(watch, "CUDA0", stale=False, source="nvml:GPU-0")
        driver.change(0, hang_s=float("inf"))
        await until(watch, "CUDA0", stale=True)
        threads = set(threading.enumerate())

        for _ in range(3):
            watch.set_devices([])
            await watch.fresh()
            watch.set_devices([CUDA0])
            await watch.fresh()

        assert set(threading.enumerate()) <= threads
        driver.change(0, hang_s=0.0)
        await until(watch, "CUDA0", stale=False)


async def test_a_driver_that_vanishes_and_comes_back(driver: StandInNvml) -> None:
    watch = a_watch(patience_s=HANG_S, poll_s=0.01)
    watch.set_devices([CUDA0, RPC0])

    async with running(watch):
        before = (await watch.fresh()).devices["CUDA0"]
        with capture_logs() as logs:
            driver.driver(error=DRIVER_NOT_LOADED)
            gone = (await watch.fresh()).devices
            await watch.fresh()
            driver.driver()
            back = (await watch.fresh()).devices["CUDA0"]

    assert gone["CUDA0"].problem == "NVML, GPU-0: Driver Not Loaded"
    assert (gone["CUDA0"].free_bytes, gone["CUDA0"].at_s) == (before.free_bytes, before.at_s)
    assert not gone["RPC0"].stale
    assert (back.stale, back.problem) == (False, None)
    assert [(line["log_level"], line["device"]) for line in logs] == [
        ("warning", "CUDA0"),
        ("info", "CUDA0"),
    ]


async def test_a_driver_that_comes_late_is_found(driver: StandInNvml) -> None:
    driver.driver(error=DRIVER_NOT_LOADED)
    watch = a_watch(patience_s=HANG_S)
    watch.set_devices([CUDA0])

    async with running(watch):
        assert (await watch.fresh()).devices["CUDA0"].source == "ggml"
        driver.driver()
        watch.set_devices([CUDA0, CUDA1])  # a worker that finds more, say
        assert (await watch.fresh()).devices["CUDA0"].source == "nvml:GPU-0"


async def test_a_listing_that_hangs_holds_up_nothing_else(driver: StandInNvml) -> None:
    driver.driver(hang_s=float("inf"))
    watch = a_watch(poll_s=0.01)
    watch.set_devices([CUDA0, RPC0])

    async with running(watch):
        for _ in range(3):
            snapshot = await watch.fresh()
        assert (snapshot.devices["CUDA0"].source, snapshot.devices["RPC0"].stale) == ("ggml", False)

        driver.driver()
        await until(watch, "CUDA0", source="nvml:GPU-0", stale=False)


async def test_a_wrong_card_in_the_policy_is_unknown_and_says_why(driver: StandInNvml) -> None:
    watch = a_watch(patience_s=HANG_S, setting=lambda _: "nvml:GPU-9")
    watch.set_devices([RPC0])

    async with running(watch):
        reading = (await watch.fresh()).devices["RPC0"]

    assert (reading.free_bytes, reading.stale) == (None, True)
    assert reading.problem == "nvml: no card GPU-9; there are: GPU-0, GPU-1"


async def test_workers_are_asked_for_what_only_they_know(driver: StandInNvml) -> None:
    reports = [[Device("RPC0", "", "gpu", 4 * GIB, free * GIB)] for free in (2, 1)]
    asked: list[int] = []

    async def ask(_: object) -> list[Device]:
        asked.append(len(asked))
        if not reports:
            raise ConnectionError("the worker went away")
        return reports.pop(0)

    watch = a_watch(patience_s=HANG_S, ask_workers=ask)
    watch.set_devices([RPC0, CUDA0])

    async with running(watch):
        free = [(await watch.fresh()).devices["RPC0"].free_bytes for _ in range(2)]
        broken = (await watch.fresh()).devices["RPC0"]
        watch.set_devices([CUDA0])
        before = len(asked)
        await watch.fresh()

    assert free == [2 * GIB, GIB]
    assert (broken.free_bytes, broken.stale) == (GIB, True)
    assert "the worker went away" in (broken.problem or "")
    assert len(asked) == before  # NVML knows all that is left


class LateWorker:
    """Tells of RPC0 when `answer` is set."""

    def __init__(self) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def ask(self, _: object) -> list[Device]:
        self.asked.set()
        await self.answer.wait()
        return [RPC0]


async def test_an_answer_that_was_on_its_way_is_older_than_what_was_told_meanwhile(
    driver: StandInNvml,
) -> None:
    worker = LateWorker()
    watch = a_watch(patience_s=HANG_S, ask_workers=worker.ask)
    watch.set_devices([RPC0])

    async with running(watch):
        await worker.asked.wait()
        watch.set_devices([replace(RPC0, free_bytes=GIB)])
        worker.answer.set()
        while not watch.latest().number:
            await asyncio.sleep(0)
        reading = watch.latest().devices["RPC0"]

    assert reading.free_bytes == GIB


async def test_a_worker_that_does_not_answer_is_asked_once(driver: StandInNvml) -> None:
    release = asyncio.Event()
    asked: list[int] = []

    async def ask(_: object) -> list[Device]:
        asked.append(1)
        await release.wait()
        return [RPC0]

    watch = a_watch(ask_workers=ask, workers_s=0.0)
    watch.set_devices([RPC0, CUDA0])

    async with running(watch):
        began = asyncio.get_running_loop().time()
        for _ in range(20):
            snapshot = await watch.fresh()
        assert asyncio.get_running_loop().time() - began < 20 * PATIENCE_S
        assert snapshot.devices["RPC0"].problem == "does not answer"
        await until(watch, "CUDA0", stale=False, source="nvml:GPU-0")
        assert asked == [1]
        release.set()
        await until(watch, "RPC0", stale=False)


async def test_workers_are_not_blamed_while_one_of_them_is_waited_for(driver: StandInNvml) -> None:
    """Whoever asks them waits for that one, and says then which devices it hides."""
    worker = LateWorker()
    hidden: set[str] = set()
    watch = a_watch(ask_workers=worker.ask, silent=lambda: hidden)
    watch.set_devices([RPC0])

    async with running(watch):
        await worker.asked.wait()
        problems = [(await watch.fresh()).devices["RPC0"].problem for _ in range(3)]
        assert problems == [None] * 3
        hidden.add("RPC0")
        await until(watch, "RPC0", problem="does not answer")


async def test_listeners_hear_of_each_poll_until_they_leave(driver: StandInNvml) -> None:
    watch = a_watch(patience_s=HANG_S)
    heard: list[int] = []

    def broken(_: Snapshot) -> None:
        raise ValueError("a bug in a listener")

    watch.subscribe(broken)
    leave = watch.subscribe(lambda snapshot: heard.append(snapshot.number))

    async with running(watch):
        with capture_logs() as logs:
            last = await watch.fresh()
            last = await watch.fresh()
        leave()
        await watch.fresh()

    assert heard == list(range(1, last.number + 1))
    assert [line["event"] for line in logs] == ["memory_listener_failed"] * len(heard)


async def test_it_polls_less_while_nothing_is_held(driver: StandInNvml) -> None:
    # With an idle poll of an hour, only memory of a device makes it go on by itself.
    holds = False
    watch = a_watch(
        patience_s=HANG_S, poll_s=0.01, idle_poll_s=3600, holds=lambda: holds, pressure=told
    )
    watch.set_devices([CUDA0])
    seen: list[int] = []
    fifth = asyncio.Event()
    watch.subscribe(lambda snapshot: seen.append(snapshot.number))
    watch.subscribe(lambda snapshot: fifth.set() if snapshot.number >= 5 else None)

    async with running(watch):
        await watch.fresh()
        watch.set_pids([7])  # one that computes on the CPU
        await watch.fresh()
        assert not fifth.is_set()
        holds = True
        watch.set_pids([7, 8])
        await fifth.wait()


class Quiet:
    """A watch over what a model holds, which only wakes when it is rung for: an hour lies between
    two polls. `later` lets so much time pass as makes it calm."""

    def __init__(self, *devices: Device, poll_s: float = 3600, patience_s: float = HANG_S) -> None:
        self.working, self.ahead_s = False, 0.0
        self.tells: list[Callable[[], None] | None] = []
        self.watch = a_watch(
            patience_s=patience_s,
            poll_s=poll_s,
            idle_poll_s=3600,
            pressure=told,
            ask_workers=self._ask,
            at_work=lambda: self.working,
            now=lambda: time.monotonic() + self.ahead_s,
        )
        self.watch.set_devices(devices)
        self.watch.set_pids([7])

    async def later(self) -> None:
        await self.watch.fresh()
        self.ahead_s += CALM_AFTER_S
        await self.watch.fresh()

    async def _ask(self, tell: Callable[[], None] | None) -> list[Device]:
        self.tells.append(tell)
        return [RPC0]


async def test_while_figures_stand_still_a_card_is_looked_at_and_tells(driver: StandInNvml) -> None:
    quiet = Quiet(CUDA0)
    seen = asyncio.Event()
    quiet.watch.subscribe(
        lambda now: seen.set() if now.devices["CUDA0"].free_bytes == 3 * GIB else None
    )

    async with running(quiet.watch):
        await quiet.later()
        driver.change(0, others=5 * GIB)
        await seen.wait()


async def test_while_figures_stand_still_workers_look_and_tell(driver: StandInNvml) -> None:
    quiet = Quiet(RPC0)

    async with running(quiet.watch):
        await quiet.later()
        assert [tell is not None for tell in quiet.tells] == [False, True]
        tell = quiet.tells[-1]
        assert tell is not None
        polls = quiet.watch.latest().number
        tell()
        while quiet.watch.latest().number == polls:
            await asyncio.sleep(0)


@pytest.mark.parametrize("why", ["at work", "policies", "other processes", "a reading is old"])
async def test_nobody_else_looks_while_there_may_be_something_to_do(
    driver: StandInNvml, why: str
) -> None:
    quiet = Quiet(RPC0, CUDA0)

    async with running(quiet.watch):
        await quiet.later()
        if why == "at work":
            quiet.working = True
        elif why == "policies":
            await quiet.watch.policies_changed()
        elif why == "other processes":
            quiet.watch.set_pids([7, 8])
        else:
            driver.change(0, error=GPU_IS_LOST)
            await until(quiet.watch, "CUDA0", stale=True)
            quiet.ahead_s += CALM_AFTER_S
        await quiet.watch.fresh()

    assert quiet.tells[-1] is None


async def test_who_does_not_answer_while_figures_stand_still_is_asked_again_soon(
    driver: StandInNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.memory.pace.CALM_POLL_S", 3600.0)
    quiet = Quiet(CUDA0, poll_s=0.01, patience_s=0.01)
    hangs = asyncio.Event()
    quiet.watch.subscribe(lambda now: hangs.set() if now.devices["CUDA0"].stale else None)

    async with running(quiet.watch):
        await until(quiet.watch, "CUDA0", stale=False, free_bytes=7 * GIB)
        quiet.ahead_s += CALM_AFTER_S
        driver.change(0, hang_s=float("inf"))
        try:
            await quiet.watch.fresh()
            await hangs.wait()
        finally:
            driver.change(0, hang_s=0.0)


@contextmanager
def told(_: Callable[[], None]) -> Iterator[bool]:
    """The kernel would tell when programs wait for memory, and has nothing to tell."""
    yield True


async def test_when_programs_wait_for_memory_it_is_read_at_once(driver: StandInNvml) -> None:
    tell: list[Callable[[], None]] = []

    @contextmanager
    def pressure(told: Callable[[], None]) -> Iterator[bool]:
        tell.append(told)
        yield True

    available = [3 * GIB]
    host = lambda: HostReading(available_bytes=available[0])  # noqa: E731
    watch = a_watch(patience_s=HANG_S, host=host, idle_poll_s=3600, pressure=pressure)
    short = asyncio.Event()
    watch.subscribe(lambda seen: short.set() if seen.host.available_bytes == GIB else None)

    async with running(watch):
        await watch.fresh()
        available[0] = GIB
        tell[0]()
        await short.wait()


async def test_nothing_is_known_before_the_first_poll(
    driver: StandInNvml,
) -> None:
    watch = a_watch(patience_s=HANG_S)
    assert watch.latest() == Snapshot()
    watch.set_devices([CUDA0])

    async with running(watch):
        snapshot = await watch.fresh()

    assert watch.latest() is snapshot


async def test_until_a_worker_names_the_devices_there_are_the_drivers_cards(
    driver: StandInNvml,
) -> None:
    driver.driver(hang_s=float("inf"))
    driver.change(1, others=5 * GIB)
    watch = a_watch(poll_s=0.01, idle_poll_s=0.01, patience_s=0)

    async with running(watch):
        assert not (await watch.fresh()).cards
        driver.driver()
        while not all(reading.at_s for reading in watch.latest().cards.values() or [NOT_READ]):
            await watch.fresh()
        cards = watch.latest().cards
        watch.set_devices([CUDA0])
        named = await watch.fresh()

    assert {name: reading.free_bytes for name, reading in cards.items()} == {
        "GPU-0": 7 * GIB,
        "GPU-1": 3 * GIB,
    }
    assert (set(named.devices), dict(named.cards)) == ({"CUDA0"}, {})


async def test_ending_it_ends_its_threads(driver: StandInNvml) -> None:
    before = set(threading.enumerate())
    watch = a_watch(patience_s=HANG_S)
    watch.set_devices([CUDA0])
    async with running(watch):
        await watch.fresh()
        threads = set(threading.enumerate()) - before
        assert {thread.name for thread in threads} == {
            "host",
            "nvml cards",
            "sysfs cards",
            "nvml:GPU-0",
        }

    for thread in threads:
        await asyncio.to_thread(thread.join, HANG_S)
        assert not thread.is_alive()


async def test_a_card_that_is_lost_leaves_its_last_numbers(driver: StandInNvml) -> None:
    watch = a_watch(patience_s=HANG_S)
    watch.set_devices([CUDA0, CUDA1])

    async with running(watch):
        await watch.fresh()
        driver.change(0, error=GPU_IS_LOST)
        readings = (await watch.fresh()).devices

    assert (readings["CUDA0"].free_bytes, readings["CUDA0"].stale) == (7 * GIB, True)
    assert not readings["CUDA1"].stale


async def test_devices_that_are_named_while_a_poll_waits_do_not_end_it(driver: StandInNvml) -> None:
    worker = LateWorker()
    watch = a_watch(patience_s=HANG_S, ask_workers=worker.ask)
    watch.set_devices([RPC0])

    async with running(watch):
        await worker.asked.wait()
        watch.set_devices([CUDA0])
        worker.answer.set()
        devices = (await watch.fresh()).devices

    assert set(devices) == {"CUDA0"}


class SlowListing(Nvml):
    """Its first listing is from before the driver was there, and waits to be let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def cards(self) -> tuple[Card, ...]:
        if self.asked.is_set():
            return super().cards()
        self.asked.set()
        self.go.wait(HANG_S)
        return ()


async def test_cards_are_looked_for_again_for_devices_that_are_named_meanwhile(
    driver: StandInNvml,
) -> None:
    nvml = SlowListing()
    watch = a_watch(patience_s=HANG_S, nvml=nvml)
    watch.set_devices([RPC0])

    async with running(watch):
        await asyncio.to_thread(nvml.asked.wait, HANG_S)
        watch.set_devices([CUDA0])
        nvml.go.set()
        reading = (await watch.fresh()).devices["CUDA0"]

    assert reading.source == "nvml:GPU-0"


async def test_whoever_wants_a_poll_where_there_is_none_gets_the_latest_and_it_is_told(
    driver: StandInNvml,
) -> None:
    watch = MemoryWatch(patience_s=HANG_S, fresh_s=0.01)
    with capture_logs() as before_any:
        nothing = await watch.fresh()
    async with running(watch):
        while not watch.latest().number:
            await asyncio.sleep(0)
    latest = watch.latest()

    with capture_logs() as after_the_end:
        assert await watch.fresh() is latest

    assert nothing == Snapshot()
    (first,), (second,) = before_any, after_the_end
    assert (first["event"], first["waited_s"], first["age_s"]) == ("memory_not_fresh", 0.01, None)
    assert (second["event"], second["age_s"] >= 0) == ("memory_not_fresh", True)


async def test_a_host_that_does_not_answer_ends_neither_the_polls_nor_who_waits(
    driver: StandInNvml,
) -> None:
    go = threading.Event()

    def host() -> HostReading:
        go.wait(HANG_S)
        return HostReading(available_bytes=GIB)

    watch = MemoryWatch(host=host, poll_s=0.01, fresh_s=0.01)
    watch.set_devices([CUDA0])
    watch.set_pids([7])

    async with running(watch):
        await until(watch, "CUDA0", stale=False, source="nvml:GPU-0")
        assert watch.latest().host.available_bytes is None
        go.set()
        while watch.latest().host.available_bytes is None:
            await watch.fresh()
