"""The pool over real processes: small servers that wait at gates which the tests hold."""

import asyncio
import os
from dataclasses import replace
from math import inf

import pytest

from proxy.clock import ManualClock
from proxy.errors import Busy, LoadFailed
from proxy.pool.events import MatchPolicy
from proxy.pool.state import Backend, BackendState
from tests.pool.conftest import House
from tests.pool.helpers import ANSWER, until, until_gone


async def test_ten_at_once_start_one_process(house: House) -> None:
    pool, gate = house.pool(), house.gate()
    options = house.options("m", "--hold-load", gate.path)
    clients = [asyncio.ensure_future(house.client(pool, options)) for _ in range(10)]
    await gate.reached()

    assert repr(pool) == "<Pool <b1 m ctx=8192 starting in_flight=0 waiting=10> queue=10/100>"
    await gate.open()

    assert await asyncio.gather(*clients) == [ANSWER] * 10
    assert house.made == ["b1"]
    assert repr(pool) == "<Pool <b1 m ctx=8192 ready in_flight=0 waiting=0> queue=0/100>"
    assert house.kinds() == ["b1 backend_starting", "b1 backend_ready"]


async def test_two_models_load_and_answer_at_the_same_time(house: House) -> None:
    """Each is in the middle of its work while the other one is too."""
    pool = house.pool()
    loads, answers = [house.gate(), house.gate()], [house.gate(), house.gate()]
    clients = [
        asyncio.ensure_future(
            house.client(pool, house.options(name, "--hold-load", load.path), answer)
        )
        for name, load, answer in zip("ab", loads, answers, strict=True)
    ]
    for gates in (loads, answers):
        for gate in gates:
            await gate.reached()
        for gate in gates:
            await gate.open()

    assert await asyncio.gather(*clients) == [ANSWER] * 2


async def test_many_requests_use_a_backend_at_once(house: House) -> None:
    pool, gates = house.pool(), [house.gate() for _ in range(4)]
    clients = [asyncio.ensure_future(house.client(pool, house.options(), gate)) for gate in gates]
    for gate in gates:
        await gate.reached()

    assert "in_flight=4" in repr(pool)
    for gate in gates:
        await gate.open()
    assert await asyncio.gather(*clients) == [ANSWER] * 4


class TestCancel:
    """Wherever a client is cut off, the pool is idle again, and the backend serves the next one."""

    IDLE = "<Pool <b1 m ctx=8192 ready in_flight=0 waiting=0> queue=0/100>"

    async def cut(self, client: "asyncio.Task[list[bytes]]") -> None:
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client

    async def test_while_loading(self, house: House) -> None:
        """One of two goes, then the other: the load goes on for the next one."""
        pool, gate = house.pool(), house.gate()
        options = house.options("m", "--hold-load", gate.path)
        clients = [asyncio.ensure_future(house.client(pool, options)) for _ in range(2)]
        await gate.reached()

        await self.cut(clients[0])
        assert "starting in_flight=0 waiting=1> queue=1/" in repr(pool)
        await self.cut(clients[1])
        assert "starting in_flight=0 waiting=0> queue=0/" in repr(pool)

        await gate.open()
        await until(pool, "ready")
        assert repr(pool) == self.IDLE
        assert await house.client(pool, options) == ANSWER
        assert house.made == ["b1"]

    async def test_while_queued(self, house: House) -> None:
        """Behind a backend that is being unloaded."""
        pool, gate = house.pool(), house.gate()
        running = asyncio.ensure_future(house.client(pool, house.options(), gate))
        await gate.reached()
        unload = asyncio.ensure_future(pool.unload("m"))
        queued = asyncio.ensure_future(house.client(pool, house.options()))
        await until(pool, "queue=1/")

        await self.cut(queued)

        assert repr(pool) == "<Pool <b1 m ctx=8192 draining in_flight=1 waiting=0> queue=0/100>"
        await gate.open()
        assert await running == ANSWER
        assert await unload == 1
        assert repr(pool) == "<Pool empty queue=0/100>"

    @pytest.mark.parametrize("at", [0, 1], ids=["first byte", "mid-stream"])
    async def test_while_answering(self, house: House, at: int) -> None:
        pool, gate = house.pool(), house.gate()
        gates = [None] * at + [gate]
        client = asyncio.ensure_future(house.client(pool, house.options(), *gates))
        await gate.reached()
        assert "in_flight=1" in repr(pool)

        await self.cut(client)

        assert repr(pool) == self.IDLE
        assert await house.client(pool, house.options()) == ANSWER

    async def test_in_the_step_in_which_it_is_granted(self, house: House) -> None:
        """The backend became its own just before it was cancelled: it goes back at once."""
        pool = house.pool()
        acquiring = asyncio.ensure_future(pool.acquire(house.options()))
        # Looks at every turn of the loop, and so before the request can go on.
        while "in_flight=1" not in repr(pool):
            await asyncio.sleep(0)
        assert not acquiring.done()

        acquiring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acquiring

        assert repr(pool) == self.IDLE

    async def test_a_load_that_is_cancelled_goes_on(self, house: House) -> None:
        pool, gate = house.pool(), house.gate()
        load = asyncio.ensure_future(pool.load(house.options("m", "--hold-load", gate.path)))
        await gate.reached()

        load.cancel()
        await asyncio.sleep(0)
        await gate.open()

        await until(pool, "ready")
        assert repr(pool) == self.IDLE


async def test_a_lease_is_released_once(house: House) -> None:
    pool = house.pool()
    first = await pool.acquire(house.options())
    async with await pool.acquire(house.options()) as second:
        second.release()
        second.release()
        assert "in_flight=1" in repr(pool)
    assert "in_flight=1" in repr(pool)
    assert repr(first) == "<Lease <b1 m ctx=8192 ready in_flight=1 waiting=0>>"
    first.release()
    assert "in_flight=0" in repr(pool)
    assert repr(first).endswith(" released>")


async def test_until_left_gives_up(house: House) -> None:
    pool = house.pool()
    backend = await pool.load(house.options())

    assert not await pool.until_left(backend, 0.0)


async def test_the_queue_is_bounded(house: House) -> None:
    pool, gate = house.pool(max_queue=2), house.gate()
    options = house.options("m", "--hold-load", gate.path)
    clients = [asyncio.ensure_future(house.client(pool, options)) for _ in range(2)]
    await gate.reached()

    with pytest.raises(Busy) as refused:
        await pool.acquire(options)

    assert refused.value.retry_after_s == 5.0
    pool.limit_queue(3)
    clients.append(asyncio.ensure_future(house.client(pool, options)))
    await gate.open()
    assert await asyncio.gather(*clients) == [ANSWER] * 3


class TestKeepAlive:
    async def test_unloads_when_its_time_has_come(self, house: House) -> None:
        clock = ManualClock()
        pool = house.pool(clock=clock)
        idle: list[str] = []
        pool.hooks.subscribe(idle=lambda backend: idle.append(backend.id))
        await house.client(pool, house.options(), keep_alive_s=60.0)
        backend = pool.backends()[0]
        assert backend.expires_at is not None
        assert (backend.expires_at - clock.wall()).total_seconds() == 60.0
        assert idle == ["b1"]

        await clock.advance(59.0)
        await house.client(pool, house.options())
        await clock.advance(59.0)
        assert backend.state is BackendState.READY
        await clock.advance(1.0)
        await until_gone(backend)

        assert repr(pool) == "<Pool empty queue=0/100>"

    async def test_zero_is_at_once_and_infinity_never(self, house: House) -> None:
        clock = ManualClock()
        pool = house.pool(clock=clock)
        await house.client(pool, house.options("stays"), keep_alive_s=inf)
        await house.client(pool, house.options("goes"), keep_alive_s=0.0)
        stays, goes = pool.backends()
        await until_gone(goes)
        await clock.advance(1e9)

        assert stays.state is BackendState.READY
        assert stays.expires_at is None


class TestUnload:
    async def test_busy_drains(self, house: House) -> None:
        """The running answer is finished, and a request that comes meanwhile gets a new backend."""
        pool, gate = house.pool(), house.gate()
        running = asyncio.ensure_future(house.client(pool, house.options(), None, gate))
        await gate.reached()
        unload = asyncio.ensure_future(pool.unload("m"))
        await asyncio.sleep(0)
        late = asyncio.ensure_future(house.client(pool, house.options()))
        await until(pool, "queue=1/")
        assert not unload.done()

        await gate.open()

        assert await running == await late == ANSWER
        assert await unload == 1
        assert house.made == ["b1", "b2"]

    async def test_by_id_by_model_and_what_is_not_there(self, house: House) -> None:
        pool = house.pool()
        await pool.load(house.options("a"))
        await pool.load(house.options("b"))

        assert await pool.unload("b1") == 1
        assert await pool.unload("b") == 1
        assert await pool.unload("a") == 0
        assert repr(pool) == "<Pool empty queue=0/100>"

    async def test_while_it_loads_for_nobody(self, house: House) -> None:
        pool, gate = house.pool(), house.gate()
        load = asyncio.ensure_future(pool.load(house.options("m", "--hold-load", gate.path)))
        await gate.reached()
        load.cancel()
        await asyncio.sleep(0)

        assert await pool.unload("m") == 1
        assert house.kinds()[-1] == "b1 backend_gone"

    async def test_before_there_is_a_process(self, house: House) -> None:
        """In the very turn in which it was to be started, and somewhat later."""
        for turns in (1, 2, 3, 5, 10):
            pool = house.pool()
            load = asyncio.ensure_future(pool.load(house.options()))
            for _ in range(turns):
                await asyncio.sleep(0)
            load.cancel()
            await asyncio.sleep(0)

            assert await pool.unload("m") == 1
            assert repr(pool) == "<Pool empty queue=0/100>"


async def test_one_that_waits_for_another_ones_end_can_be_asked(house: House) -> None:
    """It has an engine from the first moment on, which knows nothing."""
    pool, gate = house.pool(), house.gate()
    one, other = (replace(house.options(name), rpc=("h:1",)) for name in "ab")
    running = asyncio.ensure_future(house.client(pool, one, gate))
    await gate.reached()
    waiting = asyncio.ensure_future(house.client(pool, other))
    await until(pool, "b2")

    backend = pool.backends()[1]
    assert backend.blocked_by
    assert backend.engine.pid is None
    assert backend.engine.known().layers == ()

    await gate.open()
    assert await running == await waiting == ANSWER


class TestReplace:
    async def test_without_a_gap(self, house: House) -> None:
        """The old one serves until the new one is ready, finishes what it has, then goes."""
        pool, load, answer = house.pool(), house.gate(), house.gate()
        old, new = house.options(), house.options("m", "--hold-load", load.path)
        running = asyncio.ensure_future(house.client(pool, old, answer))
        await answer.reached()
        replacing = asyncio.ensure_future(pool.replace("b1", new))
        await load.reached()

        opened = MatchPolicy(unpinned=frozenset({"ctx", "split"}))
        assert await house.client(pool, new, matching=opened) == ANSWER
        assert house.made == ["b1", "b2"]
        await load.open()
        await replacing
        assert "b1 m ctx=8192 draining in_flight=1" in repr(pool)
        async with await pool.acquire(new, matching=opened) as lease:
            assert lease.backend.id == "b2"
        backend = pool.backends()[0]
        await answer.open()
        assert await running == ANSWER
        await until_gone(backend)
        assert repr(pool) == "<Pool <b2 m ctx=8192 ready in_flight=0 waiting=0> queue=0/100>"

    async def test_by_one_that_does_not_start(self, house: House) -> None:
        pool, broken = house.pool(), house.folder / "broken"
        broken.touch()
        await pool.load(house.options())

        await pool.replace("b1", house.options("m", "--fail", str(broken)))

        old, new = pool.backends()
        assert (old.state, new.state) == (BackendState.READY, BackendState.GONE)
        assert "these are my last words" in (old.last_error or "")

    async def test_a_larger_context_takes_an_idle_ones_place(self, house: House) -> None:
        pool = house.pool()
        small = await pool.load(house.options(ctx=4096))
        await pool.load(house.options(ctx=8192))
        await until_gone(small)

        async with await pool.acquire(house.options(ctx=4096)) as lease:
            assert lease.backend.options.ctx == 8192
        assert house.made == ["b1", "b2"]


class TestDrain:
    async def test_finishes_who_is_here_and_refuses_who_comes(self, house: House) -> None:
        pool, load, answer = house.pool(), house.gate(), house.gate()
        await pool.load(house.options("idle"))
        running = asyncio.ensure_future(house.client(pool, house.options("busy"), answer))
        loading = asyncio.ensure_future(
            house.client(pool, house.options("cold", "--hold-load", load.path))
        )
        await answer.reached()
        await load.reached()
        draining = asyncio.ensure_future(pool.drain(600.0))
        await asyncio.sleep(0)

        with pytest.raises(Busy) as refused:
            await pool.acquire(house.options("idle"))
        assert refused.value.retry_after_s == 10.0
        assert pool.draining
        await load.open()
        await answer.open()

        assert await running == await loading == ANSWER
        await draining
        assert repr(pool) == "<Pool empty queue=0/100 draining>"

    async def test_a_start_that_still_waits_for_room_is_given_up(self, house: House) -> None:
        pool = house.pool()
        waits = asyncio.Event()

        async def no_room(_: object) -> None:
            waits.set()
            await asyncio.Event().wait()

        pool.hooks.subscribe(before_start=no_room)
        client = asyncio.ensure_future(house.client(pool, house.options()))
        await waits.wait()

        await pool.drain(0.0)

        with pytest.raises(Busy):
            await client
        assert repr(pool) == "<Pool empty queue=0/100 draining>"

    async def test_ends_what_is_left_when_time_is_up(self, house: House) -> None:
        pool, load, answer = house.pool(), house.gate(), house.gate()
        running = asyncio.ensure_future(house.client(pool, house.options("busy"), None, answer))
        loading = asyncio.ensure_future(
            house.client(pool, house.options("cold", "--hold-load", load.path))
        )
        await answer.reached()
        await load.reached()
        pids = [backend.engine.pid or 0 for backend in pool.backends()]

        await pool.drain(0.0)

        with pytest.raises(Busy):
            await loading
        assert await running == ANSWER[:1]  # its connection ended with the process
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_a_listener_may_talk_back_to_the_pool(house: House) -> None:
    pool = house.pool()
    heard: list[str] = []
    pool.hooks.subscribe(
        ready=lambda backend: heard.append(f"ready {backend.in_flight}"),
        idle=lambda backend: heard.append("idle"),
        gone=lambda backend: heard.append("gone"),
    )
    lease = await pool.acquire(house.options())
    pool.hooks.subscribe(gone=lambda backend: lease.release())
    await pool.drain(0.0)

    assert heard == ["ready 1", "gone"]


async def test_a_start_that_cannot_be_prepared_has_failed(house: House) -> None:
    pool = house.pool()

    async def refuse(backend: Backend) -> None:
        raise LoadFailed(f"{backend.id} is not to be loaded")

    pool.hooks.subscribe(before_start=refuse)
    with pytest.raises(LoadFailed, match="b1 is not to be loaded"):
        await pool.load(house.options())
    assert house.loads == []
