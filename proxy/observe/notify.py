"""Tells systemd how the service is doing, where it wants to know (`$NOTIFY_SOCKET`); elsewhere does
nothing.
"""

import asyncio
import os
import socket
from collections.abc import Mapping

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
    """How often to send "WATCHDOG=1": half of what systemd waits for, or None where it does not
    watch.
    """
    wanted = env.get("WATCHDOG_USEC", "")
    return int(wanted) / MICROSECONDS / 2 if wanted.isdecimal() and int(wanted) > 0 else None


async def feed_watchdog(interval_s: float) -> None:
    """Say that the event loop still turns, until cancelled."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
