"""Sockets of our own: at one address, at several, at all."""

import errno
import socket
from contextlib import ExitStack
from typing import Any, Final

SEPARATOR: Final = ","
IPV4: Final = (socket.AF_INET, ("0.0.0.0", 0))
IPV6: Final = (socket.AF_INET6, ("::", 0, 0, 0))
# As for Ollama, each of them means every address of both families; which comes first, is told.
EVERYWHERE: Final = {
    "": (IPV4, IPV6),
    "*": (IPV4, IPV6),
    "0.0.0.0": (IPV4, IPV6),
    "::": (IPV6, IPV4),
}
# How a system says that it has only one of the families.
NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
QUEUE: Final = 1024
# A port that is free at one address may be taken at the next.
TRIES: Final = 20

Place = tuple[socket.AddressFamily, tuple[Any, ...]]


def hosts_of(host: str) -> list[str]:
    """The names and addresses in a `server.host`."""
    return [each.strip().strip("[]") for each in host.split(SEPARATOR)]


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets for all addresses of `host`, at one port; 0: at one that is free. Raises OSError;
    nothing is left open then."""
    places = _places(hosts_of(host))
    may_miss = places in EVERYWHERE.values()
    for _ in range(TRIES - 1 if port == 0 else 0):
        try:
            return _listen(places, port, may_miss=may_miss)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _listen(places, port, may_miss=may_miss)


def _places(hosts: list[str]) -> tuple[Place, ...]:
    """Raises OSError for a name that nobody knows."""
    for host in hosts:
        if host in EVERYWHERE:
            return EVERYWHERE[host]
    found = [
        (family, address)
        for host in hosts
        for family, _, _, _, address in socket.getaddrinfo(
            # As bytes: a text is taken through tables of all languages' letters, of 0.2 MiB.
            host.encode() if host.isascii() else host,
            0,
            type=socket.SOCK_STREAM,
        )
    ]
    return tuple(dict.fromkeys(found))


def _listen(places: tuple[Place, ...], port: int, *, may_miss: bool) -> list[socket.socket]:
    """`may_miss`: that one family is not there is no error, as long as the other is."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as stack:
        for family, address in places:
            try:
                sock = _listening(family, (address[0], port, *address[2:]))
            except OSError as error:
                if not may_miss or error.errno not in NO_FAMILY:
                    raise
                missing = error
                continue
            stack.callback(sock.close)
            sockets.append(sock)
            port = sock.getsockname()[1]
        if missing is not None and not sockets:
            raise missing
        stack.pop_all()
    return sockets


def _listening(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The other family has a socket of its own: so addresses of clients look as they are.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(QUEUE)
        sock.setblocking(False)
        stack.pop_all()
    return sock
