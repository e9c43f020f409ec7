"""Whether there is a Ray to be used, before Ray itself is asked: where none answers any more, that
asks on for minutes. Blocking."""

import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

ANSWER_S: Final = 3.0
ADDRESS_OPTION, NODE_OPTION = "--gcs-address=", "--node_id="
# Ray gives these to its workers, and to who uses it from afar.
TAKEN_BY_RAY: Final = range(10001, 20000)


def running(proc: Path = Path("/proc")) -> frozenset[str]:
    """The clusters that this user's Rays on this machine are in, by their addresses. Those of other
    users are none of ours: who uses a Ray lets its owner run anything as oneself."""
    found = set()
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if folder.stat().st_uid == os.geteuid():
                found |= cluster_of((folder / "cmdline").read_bytes())
        except OSError:  # it has ended
            continue
    return frozenset(found)


def cluster_of(command_line: bytes) -> set[str]:
    """Pure; empty where that is no raylet, the process that Ray has on each machine."""
    return _given(command_line, ADDRESS_OPTION)


def _given(command_line: bytes, option: str) -> set[str]:
    program, *words = command_line.decode(errors="replace").split("\0")
    if os.path.basename(program) != "raylet":
        return set()
    return {word.removeprefix(option) for word in words if word.startswith(option)} - {""}


def node_of(ancestor: int, proc: Path = Path("/proc")) -> str | None:
    """Ray's id of the node that this process has started, itself or by another. Of several on one
    machine Ray itself says to whoever asks that he is on the first."""
    for folder in proc.iterdir():
        try:
            given = folder.name.isdecimal() and _given(
                (folder / "cmdline").read_bytes(), NODE_OPTION
            )
            if given and ancestor in _ancestors(int(folder.name), proc):
                return given.pop()
        except OSError:  # it has ended
            continue
    return None


def _ancestors(pid: int, proc: Path) -> Iterator[int]:
    while pid > 1:
        stat = (proc / str(pid) / "stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
        yield pid


def last_started(folder: str | None) -> str | None:
    """What `ray start` wrote for later commands; it stays there when that Ray has ended. `folder`
    is RAY_TMPDIR."""
    try:
        return Path(folder or "/tmp", "ray", "ray_current_cluster").read_text().strip() or None
    except (OSError, ValueError):
        return None


def choose(addresses: Collection[str], last: str | None) -> str | None:
    """The one to use. Raises LookupError where there are several. Pure."""
    if last in addresses:
        return last
    if len(addresses) > 1:
        raise LookupError(
            "several Rays run on this machine: set RAY_ADDRESS to one of "
            + ", ".join(sorted(addresses))
        )
    return next(iter(addresses), None)


def why_silent(address: str) -> str | None:
    """None where something takes connections there."""
    try:
        socket.create_connection(parts_of(address), ANSWER_S).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return None


def parts_of(address: str) -> tuple[str, int]:
    """Of HOST:PORT. Raises ValueError. Pure."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("that is no HOST:PORT")
    return host.strip("[]"), int(port)


def same(one: str, other: str) -> bool:
    """Whether two addresses lead to the same place, by whatever name. Asks the resolver."""
    if one == other:
        return True
    try:
        found = [
            {(each[4][0], each[4][1]) for each in socket.getaddrinfo(*parts_of(address))}
            for address in (one, other)
        ]
    except (OSError, ValueError):
        return False
    return bool(found[0] & found[1])


def why_not_listen(host: str, port: int) -> str | None:
    """Why a first machine's Ray cannot listen there; None where it can."""
    if port in TAKEN_BY_RAY:
        first, last = TAKEN_BY_RAY[0], TAKEN_BY_RAY[-1]
        return f"--ray-port {port}: Ray takes {first} to {last} for its own; choose another"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            return (
                f"Ray cannot listen on port {port} ({error.strerror}); choose another: --ray-port"
            )
    return None
