"""Where a backend finds a lent device: who is let in there, and what an answer is worth."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.errors import BackendDied
from proxy.fleet.rpc import giver, taker
from proxy.fleet.rpc.helper import Refused, helper
from tests.support.guard import HANG_S, until
from tests.support.hosted import hosted
from tests.support.llama import Client, plain_text
from tests.support.models import model
from tests.support.rpc_loan import HELLO, HERE, greeted, relayed, rpc_servers, said_to, token

pytestmark = pytest.mark.llama
PROMPT = "Once upon a time"
ASK = """
import os, socket, sys
os.setuid(int(sys.argv[3]))
s = socket.socket()
s.connect(("127.0.0.1", int(sys.argv[1])))
s.sendall(bytes.fromhex(sys.argv[2]))
try:
    sys.exit(0 if s.recv(1) else 3)
except ConnectionError:
    sys.exit(3)
"""


async def asked_by(port: int, user: int = os.getuid()) -> int | None:
    """The exit status of a process that asks there: 0 where it had an answer."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASK, str(port), HELLO.hex(), str(user)
    )
    return await process.wait()


async def test_live_moves_over_it_and_the_same_text_as_plain() -> None:
    async with relayed() as (port, _), hosted(model(), [f"{HERE}:{port}"]) as engine:
        layers = [layer.index for layer in engine.known().layers]
        async with Client(engine.address) as client:
            texts = [await client.text(PROMPT)]
            for goal in ("RPC0", "CPU", "RPC0"):
                await engine.place(dict.fromkeys(layers, goal))
                assert {layer.experts for layer in engine.known().layers} == {goal}
                texts.append(await client.text(PROMPT))
        assert len(rpc_servers()) == 1

    assert texts == [await plain_text(model(), PROMPT, n) for n in (12, 0)] * 2
    assert rpc_servers() == []


async def test_only_the_proxy_that_asked_and_its_own_are_let_in() -> None:
    order = giver.Order(token())
    async with helper("giver", order, ("--host", HERE)) as port:
        here = taker.Order(HERE, port, order.token, os.getpid())
        other = await asyncio.create_subprocess_exec("sleep", "60")
        elsewhere = taker.Order(HERE, port, order.token, other.pid)
        try:
            async with helper("taker", here) as ours, helper("taker", elsewhere) as theirs:
                assert await asked_by(ours) == 0
                one = await asyncio.open_connection(HERE, ours)
                assert await greeted(one)
                one[1].close()
                assert await asked_by(theirs) == 3
                assert await said_to(theirs, HELLO) == b""
        finally:
            other.kill()
            await other.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_not_let_in() -> None:
    async with relayed() as (port, _):
        assert await asked_by(port, user=65534) == 3
        assert rpc_servers() == []


async def test_a_giver_that_is_not_reached_is_told_of_at_once() -> None:
    with socket.create_server((HERE, 0)) as probe:
        nobody = probe.getsockname()[1]
    order = taker.Order(HERE, nobody, token(), os.getpid())
    why = f"the node that lends is not reached, {HERE} at port {nobody}: connection refused"
    with pytest.raises(Refused, match=why):
        async with helper("taker", order):
            pass


async def test_a_giver_that_is_gone_is_an_end_and_no_waiting() -> None:
    order = giver.Order(token())
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(helper("giver", order, ("--host", HERE)))
        async with helper("taker", taker.Order(HERE, port, order.token, os.getpid())) as here:
            await stack.aclose()
            async with asyncio.timeout(HANG_S):
                assert await said_to(here, HELLO) == b""


@pytest.mark.parametrize("killed", ["giver", "taker", "server"])
async def test_whatever_of_it_is_killed_the_backends_requests_end(killed: str) -> None:
    async with relayed() as (port, _), hosted(model(), [f"{HERE}:{port}"]) as engine:
        async with Client(engine.address) as client:
            asking = asyncio.gather(
                *(client.complete(PROMPT, 100_000) for _ in range(2)), return_exceptions=True
            )
            await until(lambda: busy(client), "it answers")
            os.kill(_process(killed), signal.SIGKILL)
            async with asyncio.timeout(HANG_S):
                ends = await asking
                await engine.wait_exit()
            assert all(isinstance(end, Exception) for end in ends)
        with pytest.raises(BackendDied):
            await engine.devices()
        await until(lambda: not rpc_servers(), "what was lent has ended")


async def busy(client: Client) -> bool:
    async with client._session.get("/slots") as answer:
        return any(slot["is_processing"] for slot in await answer.json())


def _process(what: str) -> int:
    if what == "server":
        return rpc_servers()[0]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == os.getpid() and f"proxy.fleet.rpc.{what}".encode() in words:
                return int(entry.name)
    raise AssertionError(f"no {what}")
