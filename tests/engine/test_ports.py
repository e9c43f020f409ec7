"""Who listens where, by real sockets and processes."""

import asyncio
import socket
import sys

from proxy.engine.ports import clock_ticks, free_port, ports_of, stranger_at
from proxy.engine.process import ChildProcess
from tests.support.guard import until

LISTENS = (
    "import socket, subprocess, sys, time\n"
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "time.sleep(600)\n"
)


def test_free_port_is_free_and_lent_once() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", ports[0])):
        pass


async def test_who_was_there_before_is_a_stranger() -> None:
    port = free_port()
    child = ChildProcess((sys.executable, "-c", LISTENS, str(port)), {}, "x", ends_at_eof=False)
    before = clock_ticks()
    assert stranger_at(port, before) is None
    await child.start()
    await until(lambda: ports_of(child.pid or 0) == [port], "it listens")

    assert stranger_at(port, before) is None
    while clock_ticks() <= before + 10:  # the kernel counts in steps
        await asyncio.sleep(0.01)
    stranger = await until(lambda: stranger_at(port, clock_ticks() + 1), "it was there before")

    assert stranger.endswith(f"pid {child.pid}")
    await child.stop(0.0)
    assert stranger_at(port, clock_ticks() + 1) is None


def test_a_port_on_another_address_is_nobodys_business() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        assert stranger_at(other.getsockname()[1], clock_ticks() + 1) is None
