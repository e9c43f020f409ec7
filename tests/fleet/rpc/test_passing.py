"""Bytes from one connection to another."""

import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from proxy.fleet.rpc.passing import pair, pass_on, prepare
from proxy.node.identity import certificates_of
from tests.support.guard import HANG_S
from tests.support.rpc_loan import certificate

SIZE = 5 << 20  # more than all buffers together


@contextmanager
def between(near: socket.socket, far: socket.socket, ended: threading.Event) -> Iterator[None]:
    """Somebody passes on between these two."""
    thread = threading.Thread(target=pass_on, args=(near, far, ended.set))
    thread.start()
    try:
        yield
    finally:
        thread.join(HANG_S)
        assert not thread.is_alive()


@pytest.fixture(params=["plain", "tls"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[socket.socket]]:
    """A client, its two ends of the passing between, and the server: with TLS before the first."""
    with ExitStack() as stack:
        made = [stack.enter_context(end) for end in (*pair(), *pair())]
        for end in made:
            prepare(end)
            end.settimeout(HANG_S)
        if request.param == "tls":
            if shutil.which("openssl") is None:
                pytest.skip("no openssl")
            env = certificate(tmp_path, "cluster")
            made[:2] = map(stack.enter_context, _with_tls(made[0], made[1], env))
        yield made


def _with_tls(
    client: socket.socket, server: socket.socket, env: dict[str, str]
) -> list[socket.socket]:
    certificates = certificates_of(env)
    assert certificates is not None
    context, found = certificates.of_server(), list[ssl.SSLSocket]()
    thread = threading.Thread(
        target=lambda: found.append(context.wrap_socket(server, server_side=True))
    )
    thread.start()
    outer = certificates.of_client().wrap_socket(client, server_hostname="127.0.0.1")
    thread.join()
    return [outer, found[0]]


def test_both_ways_at_once_byte_for_byte(ends: list[socket.socket]) -> None:
    client, near, far, server = ends
    there, back, ended = os.urandom(SIZE), os.urandom(SIZE), threading.Event()
    got: dict[str, bytes] = {}

    def read(name: str, source: socket.socket) -> None:
        found = bytearray()
        while len(found) < SIZE:
            found += source.recv(1 << 16)
        got[name] = bytes(found)

    def server_side() -> None:
        writing = threading.Thread(target=server.sendall, args=(back,))
        writing.start()
        read("there", server)
        writing.join()

    with between(near, far, ended):
        other = threading.Thread(target=server_side)
        other.start()
        # One thread has a connection with TLS.
        client.sendall(there)
        read("back", client)
        other.join(HANG_S)
        assert not ended.is_set()
        client.close()

    assert got == {"there": there, "back": back}
    assert ended.is_set()


@pytest.mark.parametrize("side", ["client", "server"])
def test_what_is_to_end_has_ended_before_the_other_side_hears(
    ends: list[socket.socket], side: str
) -> None:
    client, near, far, server = ends
    ended, seen = threading.Event(), []

    with between(near, far, ended):
        leaves, stays = (client, server) if side == "client" else (server, client)
        leaves.close()
        try:
            assert stays.recv(1) == b""
        except ssl.SSLError:  # cut off, as it should be
            pass
        seen.append(ended.is_set())

    assert seen == [True]
