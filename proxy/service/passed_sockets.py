"""Sockets that systemd has bound for us (`man sd_listen_fds`). They outlive this process: whoever
connects while it restarts waits in their queue for the next one.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog

log = structlog.get_logger()

FIRST_FD: Final = 3
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class NotListening(Exception):
    """What was passed is nothing that clients could connect to; the message is for people."""


def passed_sockets(env: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that were passed to this process, in the order of the socket unit; [] where none
    were, or were meant for another process. They are ours to close. Raises NotListening."""
    if env.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = env.get("LISTEN_FDS", "")
    names = env.get("LISTEN_FDNAMES", "").split(":")
    numbers = range(FIRST_FD, FIRST_FD + (int(count) if count.isdecimal() else 0))
    sockets = []
    for number in numbers:
        # Workers are not to hold it: whoever holds it keeps its queue alive.
        os.set_inheritable(number, False)
        name = names[number - FIRST_FD] if number - FIRST_FD < len(names) else ""
        sockets.append(_socket(number, name))
    return sockets


def _socket(number: int, name: str) -> socket.socket:
    what = f"descriptor {number}" + (f" ({name})" if name else "")
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise NotListening(f"{what} is no socket") from error
    listens = (
        sock.family in FAMILIES
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )
    if not listens:
        raise NotListening(f"{what} is no socket that listens")
    sock.setblocking(False)
    return sock
