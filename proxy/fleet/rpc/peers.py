"""Who is on the other end of a loopback connection, as the kernel's tables tell."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TABLE: Final = Path("/proc/net/tcp")
LISTENS: Final = "0A"
LOOKS: Final = 3

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection: of this machine, with the user that has it, and its inode, 0 where
    no process has it any more."""

    local: Address
    remote: Address
    uid: int
    inode: int


def _ends() -> Iterator[End]:
    """All ends of IPv4 connections on this machine."""
    for line in TABLE.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] != LISTENS:
            yield End(_address(fields[1]), _address(fields[2]), int(fields[7]), int(fields[9]))


def other_end(connection: socket.socket) -> End | None:
    """That of whoever has connected from this machine; None where it is gone."""
    here, there = connection.getsockname(), connection.getpeername()
    # The kernel gives its table in pieces, and one may be missed where others come and go.
    for _ in range(LOOKS):
        for end in _ends():
            if (end.local, end.remote) == (there, here):
                return end
    return None


def is_of(inode: int, ancestor: int) -> bool:
    """Whether a process has this socket that is `ancestor`, or was started by it or by one of its
    own."""
    wanted = f"socket:[{inode}]"
    return any(wanted in _open_files(pid) for pid in {ancestor} | descendants(ancestor))


def descendants(ancestor: int) -> set[int]:
    """The processes that were started by this one or by one of its own, and live."""
    family, parents = {ancestor}, dict(_parents())
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {ancestor}


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "stat").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            # Behind the name, in which there may be anything, and half a letter.
            yield int(entry.name), int(text.rpartition(b")")[2].split()[1])


def _open_files(pid: int) -> Iterator[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue


def _address(text: str) -> Address:
    """Of "0100007F:C383", which is as a little-endian machine has it in memory."""
    address, _, port = text.partition(":")
    return socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)
