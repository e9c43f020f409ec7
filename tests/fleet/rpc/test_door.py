"""How a giver and a taker let somebody in: whatever fails, the next one comes in."""

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from proxy.fleet.rpc.door import Door
from tests.support.guard import HANG_S
from tests.support.rpc_loan import HERE, said_to


class Listener(socket.socket):
    """Its first connection fails, as one whose client has gone may."""

    failed = False

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().accept()
        if not self.failed:
            self.failed = True
            connection.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, "it has gone")
        return connection, address


def greet(connection: socket.socket) -> None:
    with connection:
        connection.sendall(b"come in")


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as made:
        made.bind((HERE, 0))
        made.listen()
        yield made


async def test_a_connection_that_fails_keeps_no_other_out(listener: Listener) -> None:
    door = Door(listener, threading.BoundedSemaphore(1), greet)
    threading.Thread(target=door.serve, daemon=True).start()

    async with asyncio.timeout(HANG_S):
        assert [await said_to(door.port, b"") for _ in range(2)] == [b"", b"come in"]


async def test_where_no_thread_can_be_had_the_place_is_given_back(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = threading.BoundedSemaphore(1)

    def let_out(connection: socket.socket) -> None:
        greet(connection)
        places.release()

    class Failing(threading.Thread):
        def start(self) -> None:
            monkeypatch.undo()
            raise RuntimeError("can't start new thread")

    listener.failed = True
    door = Door(listener, places, let_out)
    threading.Thread(target=door.serve, daemon=True).start()
    monkeypatch.setattr("proxy.fleet.rpc.door.threading.Thread", Failing)

    async with asyncio.timeout(HANG_S):
        assert [await said_to(door.port, b"") for _ in range(2)] == [b"", b"come in"]
