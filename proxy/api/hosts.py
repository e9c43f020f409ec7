"""Which names mean this machine: what the Host header of a request may say.

A page of another site that has its name resolve to this machine (DNS rebinding) is of the same
origin as the proxy to its browser; only the name in Host tells who it is.
"""

import ipaddress
import re
import socket
from collections.abc import Set
from pathlib import Path
from typing import Final

HOSTS_FILE: Final = Path("/etc/hosts")
# What containers call the machine that they run on. Nobody can register names below `internal`.
FROM_CONTAINERS: Final = frozenset({"host.docker.internal", "host.containers.internal"})

_BRACKETED: Final = re.compile(
    r"\[([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9._~%-]+)?\](?::([0-9]{0,5}))?"  # a zone means nothing here
)
_NAMED: Final = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?(?::([0-9]{0,5}))?")


def split_host(text: str) -> tuple[str, str] | None:
    """The name or address, in small letters without brackets, zone and last dot, and the port, ""
    where there is none. None for what no Host header can say."""
    if match := _BRACKETED.fullmatch(text) or _NAMED.fullmatch(text):
        return match[1].lower(), match[2] or ""
    # Some clients leave the brackets out.
    return (text.lower(), "") if _is_ipv6(text) else None


def is_ours(text: str, names: Set[str]) -> bool:
    """Whether a Host header means this machine: by loopback, by one of `names`, or by an address,
    which cannot be made to mean another machine later on."""
    parts = split_host(text)
    if parts is None:
        return False
    name, _ = parts
    return (
        name == "localhost"
        or name.endswith(".localhost")
        or name in names
        or name in FROM_CONTAINERS
        or _is_address(name)
    )


def own_names(listening: str) -> frozenset[str]:
    """The names of this machine, and those on which the proxy was told to listen. What DNS says
    of it does not count: that is for whoever runs the network to say."""
    try:
        hosts = HOSTS_FILE.read_text(errors="replace")
    except OSError:
        hosts = ""
    return names_of(socket.gethostname(), hosts, listening)


def names_of(hostname: str, hosts_file: str, listening: str) -> frozenset[str]:
    """`hostname`, short and long, as multicast DNS has it (`.local`), and what stands beside it in
    `hosts_file`, the text of /etc/hosts."""
    hostname = hostname.lower()
    short = hostname.partition(".")[0]
    names = {hostname, short, f"{short}.local"}
    names.update(each.strip() for each in listening.lower().split(","))
    for line in hosts_file.lower().splitlines():
        of_one_address = line.partition("#")[0].split()[1:]
        if hostname in of_one_address:
            names.update(of_one_address)
    return frozenset(parts[0] for name in names if (parts := split_host(name)))


def _is_address(name: str) -> bool:
    try:
        # Also 127.1 and the like, which browsers and curl take for addresses too.
        socket.inet_aton(name)
    except (OSError, ValueError):  # ValueError: bytes that are no text, in the zone of an address
        return _is_ipv6(name)
    return True


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return False
    return True
