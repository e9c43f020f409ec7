"""Requests to an engine that cannot be reached, by what the system says of it."""

import asyncio
import socket
from pathlib import Path

import pytest

from proxy.engine.ports import free_port
from proxy.engine.types import Address
from proxy.errors import BackendDied, NotServing
from proxy.upstream.call import Call
from proxy.upstream.connection import connect
from proxy.upstream.open_calls import OpenCalls
from tests.support.guard import until


async def test_an_engine_that_nobody_listens_for_does_not_serve(tmp_path: Path) -> None:
    for address in (Address(str(tmp_path / "none")), Address(port=free_port())):
        with pytest.raises(NotServing, match=r"does not take connections: [a-z ]+$"):
            async with Call(address, "GET", "/health"):
                pass


async def test_a_place_among_those_that_wait_for_an_engine_is_waited_for(tmp_path: Path) -> None:
    """An engine that is stopped takes nobody in. Once it is gone, all of them are told."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(1)
        address, calls = Address(str(tmp_path / "s")), OpenCalls()

        async def ask() -> str:
            async with Call(address, "GET", "/", calls=calls) as answer:
                return str(answer.status)

        asked = [asyncio.ensure_future(ask()) for _ in range(5)]
        await until(lambda: repr(calls) == "<OpenCalls 2>", "two are in")
        with pytest.raises(BlockingIOError):
            await connect(address)
        assert not any(task.done() for task in asked)
        taken, _ = listening.accept()
        await until(lambda: repr(calls) == "<OpenCalls 3>", "there was room for one more")
        taken.close()
        await until(lambda: repr(calls) == "<OpenCalls 2>", "that one is over")

    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(end) for end in ends} <= {BackendDied, NotServing}
    assert repr(calls) == "<OpenCalls 0>"
