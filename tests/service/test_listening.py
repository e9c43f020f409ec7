"""Where the proxy listens, by what is said of it."""

import errno
import os
import socket
from typing import Any

import pytest

from proxy.service import listening
from proxy.service.listening import hosts_of, listen


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def places(host: str, port: int = 0) -> list[str]:
    """Where clients are let in; the port is the same everywhere."""
    sockets = listen(host, port)
    try:
        (one,) = {sock.getsockname()[1] for sock in sockets}
        assert port in (0, one)
        for sock in sockets:
            address = {"0.0.0.0": "127.0.0.1", "::": "::1"}
            at = sock.getsockname()[0]
            socket.create_connection((address.get(at, at), one), timeout=30).close()
        return [sock.getsockname()[0] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("0.0.0.0", ["0.0.0.0", "::"]),
        ("::", ["::", "0.0.0.0"]),
        ("[::]", ["::", "0.0.0.0"]),
        ("", ["0.0.0.0", "::"]),
        ("127.0.0.1, ::", ["::", "0.0.0.0"]),
        ("127.0.0.1, [::1]", ["127.0.0.1", "::1"]),
    ],
)
def test_every_address_is_of_both_families(host: str, wanted: list[str]) -> None:
    """As Go's does: a client that takes `localhost` for ::1 finds Ollama, and so it finds us."""
    assert places(host) == wanted


def test_several_addresses_have_one_port() -> None:
    assert places("127.0.0.1,127.0.0.2") == ["127.0.0.1", "127.0.0.2"]
    assert places("127.0.0.1,127.0.0.1") == ["127.0.0.1"]
    assert places("127.0.0.1") == ["127.0.0.1"]


def test_a_port_that_only_some_have_free_is_not_taken() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            listen("127.0.0.1, 127.0.0.2", port)
        # Nothing is left open.
        socket.create_server(("127.0.0.1", port)).close()


def test_a_free_port_is_looked_for_until_all_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = listening._listening
    refused: list[Any] = []

    def busy(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
        if address[1] and len(refused) < 3:
            refused.append(address)
            raise OSError(errno.EADDRINUSE, "taken")
        return made(family, address)

    monkeypatch.setattr(listening, "_listening", busy)

    assert places("127.0.0.1,127.0.0.2") == ["127.0.0.1", "127.0.0.2"]
    assert len(refused) == 3


@pytest.mark.parametrize("missing", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_machine_may_have_one_family_alone(
    host: str, missing: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = listening._listening

    def without(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
        if family == missing:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return made(family, address)

    monkeypatch.setattr(listening, "_listening", without)
    if missing == socket.AF_INET and not has_ipv6():
        pytest.skip("this machine has no IPv6")

    assert places(host) == ["0.0.0.0" if missing == socket.AF_INET6 else "::"]
    # What was named has to be there.
    with pytest.raises(OSError, match="no such family"):
        listen("127.0.0.1" if missing == socket.AF_INET else "::1", 0)


def test_a_machine_without_either_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "no such family")

    monkeypatch.setattr(listening, "_listening", nothing)

    with pytest.raises(OSError, match="no such family"):
        listen("0.0.0.0", 0)


def test_names_of_several() -> None:
    assert hosts_of(" 127.0.0.1 ,[::1], name.example") == ["127.0.0.1", "::1", "name.example"]
