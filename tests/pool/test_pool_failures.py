"""The pool when loads fail and processes are killed: small servers that wait at gates."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from proxy.engine.types import Engine, LoadOptions
from proxy.errors import LoadFailed, LoadRefused
from proxy.pool.pool import Pool
from tests.pool.conftest import House
from tests.pool.helpers import ANSWER, LAST_WORDS, until, until_gone
from tests.support.guard import HANG_S
from tests.support.serving import pid_of


async def started(pool: Pool) -> int:
    """Its only backend's process: that may be at its gate before we are told of it."""
    async with asyncio.timeout(HANG_S):
        while (pid := pool.backends()[0].engine.pid) is None:
            await asyncio.sleep(0)
    return pid


class TestFailure:
    async def test_all_who_wait_get_the_last_words_and_the_next_one_tries_anew(
        self, house: House
    ) -> None:
        """A new file is tried at once; otherwise the next one would have been refused."""
        pool, gate, broken = house.pool(), house.gate(), house.folder / "broken"
        broken.touch()
        gguf = house.folder / "m.gguf"
        gguf.touch()
        args = ("--hold-load", gate.path, "--fail", str(broken))
        options = replace(house.options("m", *args), path=gguf)
        clients = [asyncio.ensure_future(house.client(pool, options)) for _ in range(3)]
        await gate.reached()
        await gate.open()

        for client in clients:
            with pytest.raises(LoadFailed, match=LAST_WORDS):
                await client
        assert repr(pool) == (
            "<Pool <b1 m ctx=8192 gone in_flight=0 waiting=0 error='these are my last words'>"
            " queue=0/100>"
        )
        with pytest.raises(
            LoadRefused, match=r"(?s)tried again in \d+ s: .*these are my last words"
        ):
            await pool.acquire(options)
        broken.unlink()
        gguf.write_text("new")
        again = asyncio.ensure_future(house.client(pool, options))
        await gate.reached()
        await gate.open()
        assert await again == ANSWER
        assert house.made == ["b1", "b1"]

    async def test_a_program_that_is_not_there(self, house: House) -> None:
        pool = house.pool()
        with pytest.raises(LoadFailed, match="cannot run /no/such"):
            await pool.acquire(replace(house.options(), command=("/no/such", "{port}")))

    async def test_an_engine_that_cannot_be_made(self, house: House) -> None:
        def make(backend_id: str, options: LoadOptions) -> Engine:
            raise ValueError("no such engine")

        pool = house.pool(make=make)
        with pytest.raises(LoadFailed, match="no such engine"):
            await pool.acquire(house.options())

    async def test_killed_between_requests(self, house: House) -> None:
        """kill -9 of a ready backend: the next request finds a new one."""
        pool = house.pool()
        backend = await pool.load(house.options())
        os.kill(pid_of(backend.engine), signal.SIGKILL)
        await until_gone(backend)

        assert backend.last_error is not None
        assert backend.last_error.startswith("the worker ended by itself (signal 9): it was killed")
        assert await house.client(pool, house.options()) == ANSWER
        assert house.made == ["b1", "b1"]
        assert repr(pool) == (
            "<Pool <b1 m ctx=8192 generation=2 ready in_flight=0 waiting=0> queue=0/100>"
        )

    async def test_killed_while_requests_wait(self, house: House) -> None:
        """They do not notice: the load is tried once more."""
        pool, gate = house.pool(), house.gate()
        options = house.options("m", "--hold-load", gate.path)
        clients = [asyncio.ensure_future(house.client(pool, options)) for _ in range(3)]
        await gate.reached()

        os.kill(await started(pool), signal.SIGKILL)
        gate.close()
        await until(pool, "generation=2")
        await gate.reached()
        await gate.open()

        assert await asyncio.gather(*clients) == [ANSWER] * 3
        assert house.made == ["b1", "b1"]

    async def test_killed_twice_while_requests_wait(self, house: House) -> None:
        pool, gate = house.pool(), house.gate()
        options = house.options("m", "--hold-load", gate.path)
        client = asyncio.ensure_future(house.client(pool, options))
        for _ in range(2):
            await gate.reached()
            os.kill(await started(pool), signal.SIGKILL)
            backend = pool.backends()[0]
            gate.close()
            await until_gone(backend)

        with pytest.raises(LoadFailed, match=r"ended while loading \(-9\)"):
            await client
        assert house.made == ["b1", "b1"]

    async def test_killed_in_use_it_leaves_no_timer(self, house: House) -> None:
        pool = house.pool()
        backend = await pool.load(house.options())
        await asyncio.sleep(0)  # its timer begins
        async with await pool.acquire(house.options()):
            os.kill(pid_of(backend.engine), signal.SIGKILL)
            await until_gone(backend)
            await asyncio.sleep(0)

        assert "b1:keep_alive" not in {task.get_name() for task in asyncio.all_tasks()}

    async def test_killed_while_it_answers(self, house: House) -> None:
        """The client sees a broken answer; its lease does not weigh on the next start."""
        pool, gate = house.pool(), house.gate()
        lease = await pool.acquire(house.options())
        os.kill(pid_of(lease.backend.engine), signal.SIGKILL)

        assert await pool.until_left(lease.backend, 60.0)
        client = asyncio.ensure_future(house.client(pool, house.options(), gate))
        await gate.reached()
        lease.release()

        assert "generation=2 ready in_flight=1" in repr(pool)
        await gate.open()
        assert await client == ANSWER
