"""Which limit holds for which worker, and when it is looked at: engines without a process, on a
clock that passes at once."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import pytest

from proxy.clock import ManualClock
from proxy.control.hang import IDLE_LOOK_S, LOOK_S
from proxy.control.hang_watch import HangWatch
from proxy.engine.not_started import NotStarted
from proxy.engine.types import Address, LoadOptions
from proxy.errors import NoAnswer
from proxy.pool.state import Backend, BackendState
from proxy.upstream.connection import BrokenAnswer, EngineConnection
from proxy.upstream.open_calls import OpenCalls
from tests.control.world.world import policies_of

# No process has it: a process's number has 22 bits.
NOBODY = 1 << 23
FOR_EVER = 2000


class Engine(NotStarted):
    """Answers as it is told to."""

    def __init__(self, pulse: Callable[[int], Awaitable[int]]) -> None:
        self._pulse = pulse
        self.asked = 0

    @property
    def pid(self) -> int | None:
        return NOBODY

    @property
    def address(self) -> Address:
        return Address("/nowhere")

    async def pulse(self) -> int:
        self.asked += 1
        return await self._pulse(self.asked)


async def never(_: int) -> int:
    return await asyncio.get_running_loop().create_future()


async def silent(_: int) -> int:
    raise NoAnswer("it has not answered")


async def idle(_: int) -> int:
    return 7


async def works(asked: int) -> int:
    return asked


class Stage:
    """One backend, and who looks at it."""

    def __init__(
        self, pulse: Callable[[int], Awaitable[int]], *, engine: Literal["hosted", "command"]
    ) -> None:
        self.engine = Engine(pulse)
        options = LoadOptions("m", Path("m.gguf"), engine=engine)
        self.backend = Backend("b1", options, state=BackendState.READY, engine=self.engine)
        self.policy, self.moving = "", False
        self.ended: list[tuple[str, float]] = []
        self.clock = ManualClock()
        self.calls = OpenCalls()
        self.watch = HangWatch(
            self,
            calls=self.calls,
            moving=lambda _: self.moving,
            policy_of=lambda name: policies_of(self.policy).for_model(name),
            clock=self.clock,
        )

    def backends(self) -> list[Backend]:
        return [self.backend]

    def end_hanging(self, backend: Backend, why: str) -> None:
        backend.state = BackendState.STOPPING
        self.ended.append((why, self.clock.now()))

    async def until_ended(self) -> float | None:
        """After how many seconds it is; None: never."""
        began_s = self.clock.now()
        for _ in range(FOR_EVER):
            await self.clock.advance(1.0)
            self.watch.look()
            if self.ended:
                return self.ended[0][1] - began_s
        return None


@pytest.mark.parametrize("pulse", [never, silent], ids=["hangs", "gives up"])
@pytest.mark.parametrize(
    ("engine", "policy", "after_s"),
    [
        ("hosted", "", 63),
        # It may have one thread for all that it does.
        ("command", "", 603),
        ("hosted", "[defaults]\nhang_timeout = '20s'", 23),
        ("hosted", "[models.m]\nhang_timeout = '20s'", 23),
        ("hosted", "[defaults]\nhang_timeout = '2h'", 63),
    ],
)
async def test_silence(
    engine: Literal["hosted", "command"],
    policy: str,
    after_s: int,
    pulse: Callable[[int], Awaitable[int]],
) -> None:
    stage = Stage(pulse, engine=engine)
    stage.policy = policy

    ended_s = await stage.until_ended()

    assert ended_s is not None
    assert ended_s == pytest.approx(after_s, abs=1)
    assert "has not answered" in stage.ended[0][0]


@pytest.mark.parametrize("moving", [True, False], ids=["moves", "answers"])
async def test_a_stall(moving: bool) -> None:
    stage = Stage(idle, engine="hosted")
    stage.moving, stage.backend.in_flight = moving, 0 if moving else 1

    assert await stage.until_ended() == pytest.approx(603, abs=1)
    assert "nothing went on" in stage.ended[0][0]


async def test_who_has_nothing_to_do_or_does_it_does_not_hang() -> None:
    for pulse, in_flight, moving in ((idle, 0, False), (works, 1, False), (works, 0, True)):
        stage = Stage(pulse, engine="hosted")
        stage.backend.in_flight, stage.moving = in_flight, moving

        assert await stage.until_ended() is None
        assert stage.watch.answers(stage.backend)


async def test_its_requests_end_with_the_reason_although_its_process_may_not() -> None:
    stage = Stage(never, engine="hosted")
    request = EngineConnection()
    stage.calls.add(stage.engine.address, request)

    await stage.until_ended()

    with pytest.raises(BrokenAnswer, match="the worker hangs: it has not answered the proxy for"):
        await request.head


async def test_bytes_that_come_are_a_sign_that_it_goes_on() -> None:
    stage = Stage(idle, engine="hosted")
    stage.backend.in_flight = 1
    request = EngineConnection()
    stage.calls.add(stage.engine.address, request)
    for _ in range(FOR_EVER // 500):
        await stage.clock.advance(500.0)
        request.data_received(b"HTTP/1.1 100 Continue\r\n\r\n")
        stage.watch.look()

    assert stage.ended == []


async def test_it_can_be_switched_off_and_on_again() -> None:
    stage = Stage(never, engine="hosted")
    stage.policy = "[defaults]\nhang_timeout = 0"

    assert await stage.until_ended() is None
    assert stage.engine.asked == 0
    stage.policy = ""
    assert await stage.until_ended() == pytest.approx(63, abs=1)


async def test_one_that_is_on_its_way_out_is_not_asked_any_more() -> None:
    stage = Stage(never, engine="hosted")
    stage.watch.look()
    assert stage.watch.answers(stage.backend)
    stage.backend.state = BackendState.STOPPING

    assert await stage.until_ended() is None
    assert stage.engine.asked == 1


async def test_one_that_has_nothing_to_do_is_looked_at_every_other_second() -> None:
    stage = Stage(works, engine="hosted")
    running = asyncio.create_task(stage.watch.run())
    await stage.clock.advance(20)
    idle_looks = stage.engine.asked

    stage.moving = True
    await stage.clock.advance(20)
    running.cancel()

    assert idle_looks == 20 / IDLE_LOOK_S
    assert stage.engine.asked - idle_looks == pytest.approx(20 / LOOK_S, abs=1)
    assert not stage.ended


async def test_one_that_falls_silent_while_it_has_nothing_to_do_is_ended_as_soon() -> None:
    stage = Stage(never, engine="hosted")
    running = asyncio.create_task(stage.watch.run())
    while not stage.ended and stage.clock.now() < FOR_EVER:
        await stage.clock.advance(1)
    running.cancel()

    ((why, at_s),) = stage.ended
    assert "has not answered" in why
    assert at_s == pytest.approx(63, abs=IDLE_LOOK_S)
