"""Tells systemd how the service is doing, where it wants to know (`$NOTIFY_SOCKET`); elsewhere does
nothing.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

import structlog

log = structlog.get_logger()
MICROSECONDS = 1_000_000


def notify(state: str, *, env: Mapping[str, str] = os.environ) -> bool:
    """Send one state, such as "READY=1". True if there was someone to send it to."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), address)
    except OSError as error:  # it is gone, or we have as many files open as we may
        log.warning("systemd_notify_failed", address=address, reason=str(error))
        return False
    return True


def watchdog_interval_s(env: Mapping[str, str] = os.environ) -> float | None:
    """How often to send "WATCHDOG=1", or None where systemd does not watch this process. Four times
    in what it waits for: an answer that comes too late is asked for again before that is over."""
    wanted, whom = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or int(wanted) == 0 or (whom and whom != str(os.getpid())):
        return None
    return int(wanted) / MICROSECONDS / 4


async def feed_watchdog(
    interval_s: float,
    answers: Callable[[float], Awaitable[bool]],
    env: Mapping[str, str] = os.environ,
) -> None:
    """Say that all is well, until cancelled: that the event loop turns, and that clients get an
    answer, which `answers` finds out within the seconds it is given."""
    while True:
        if await answers(interval_s):
            notify("WATCHDOG=1", env=env)
        await asyncio.sleep(interval_s)
