"""Who listens where on this machine, as Linux tells it; elsewhere nothing is known."""

import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
# Two servers that start at the same time must not be told the same port.
REMEMBERED: Final = 64
# They take connections for what they started, which may be long after they were started themselves.
FORWARDERS: Final = frozenset(
    (
        *("docker-proxy", "rootlesskit", "slirp4netns", "rootlessport", "pasta", "pasta.avx2"),
        *("passt", "passt.avx2", "com.docker.backe", "systemd", "sshd", "ssh"),
    )
)
_LISTEN: Final = "0A"
# The first 4 bytes of 127.0.0.1 and of "all", in the kernel's notation, then the same of IPv6.
_REACHED: Final = frozenset(("0100007F", "00000000", "0" * 32, "0000000000000000FFFF00000100007F"))
_SESSION, _STARTED = 3, 19  # in the text of /proc/PID/stat behind the name

_lent: deque[int] = deque(maxlen=REMEMBERED)


def free_port() -> int:
    """A port of the loopback address that was free a moment ago, and was not lent lately."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _lent:
            _lent.append(port)
            return port


def clock_ticks() -> int:
    """Now, as the kernel counts when processes start."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def stranger_at(port: int, since_ticks: int) -> str | None:
    """Who listens at `port` and was there before `since_ticks`, so that no program started then can
    have started it; for people. None where nobody does, and where that is not known, as of other
    users' processes."""
    for pid, _ in _holders({inode for inode, at in _listening() if at == port}):
        name, fields = _stat(pid)
        if fields and int(fields[_STARTED]) < since_ticks and name not in FORWARDERS:
            return f"{name}, pid {pid}"
    return None


def ports_of(session: int) -> list[int]:
    """Where the processes of a session listen on addresses that loopback reaches."""
    ports = dict(_listening())
    return sorted({ports[inode] for pid, inode in _holders(set(ports)) if _session(pid) == session})


def _listening() -> Iterator[tuple[int, int]]:
    """The inode and the port of each socket that listens."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            address, _, port = fields[1].partition(":")
            if fields[3] == _LISTEN and address in _REACHED:
                yield int(fields[9]), int(port, 16)


def _holders(inodes: set[int]) -> Iterator[tuple[int, int]]:
    """The processes that have one of these sockets, as far as we may look into them."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    if not links:
        return
    for folder in PROC.glob("[0-9]*/fd"):
        try:
            files = os.listdir(folder)
        except OSError:  # it has gone, or is another user's
            continue
        for file in files:
            try:
                link = os.readlink(folder / file)
            except OSError:
                continue
            if link in links:
                yield int(folder.parent.name), links[link]


def _stat(pid: int) -> tuple[str, list[str]]:
    """The name of a process, and what the kernel says behind it; nothing once it is gone."""
    try:
        head, _, rest = (PROC / str(pid) / "stat").read_text().rpartition(")")
    except OSError:
        return "", []
    return head.partition("(")[2], rest.split()


def _session(pid: int) -> int | None:
    fields = _stat(pid)[1]
    return int(fields[_SESSION]) if fields else None
