"""Where downloads may lead: a registry on the internet has no business inside of our networks.

A registry answers with redirects, and with names that resolve to whatever it likes. So each address
is looked at when a connection to it is made, however it was come by.
"""

import ipaddress
import socket
import urllib.request
from collections.abc import Callable
from typing import Any, Final, Literal

import aiohttp
from yarl import URL

Kind = Literal["global", "private", "loopback", "link-local", "special"]
Kinds = frozenset[Kind]

OUTSIDE: Final[Kinds] = frozenset({"global"})
# Addresses of carriers, and of networks such as Tailscale's.
_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")


class InnerAddress(OSError):
    """A registry led us to an address inside of our networks; the message is for people."""


def kind_of(address: str) -> Kind:
    """What an IP address is for. Raises ValueError for what is none."""
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    # IPv4 in IPv6, in the ways in which systems or their networks send it on.
    ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    if ip.version == 6 and ip in ipaddress.ip_network("64:ff9b::/96"):
        ip = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local:
        return "link-local"
    if ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return "special"
    if ip.is_private or (ip.version == 4 and ip in _SHARED):
        return "private"
    return "global" if ip.is_global else "special"


def may_reach(host: str) -> Kinds:
    """The addresses that a registry, "name" or "name:port", may lead to: those outside, and those
    that are as near as itself. Blocking: it looks its name up."""
    name = URL(f"//{host}").host or host
    if name == "localhost":
        return OUTSIDE | {"loopback", "private"}
    try:
        kind = kind_of(name)
    except ValueError:
        # Who is on the internet may have a name that resolves to anything.
        return OUTSIDE | {"private"} if "private" in _kinds_of(name) else OUTSIDE
    return OUTSIDE | ({"loopback", "private"} if kind == "loopback" else {kind})


def socket_factory(kinds: Kinds) -> Callable[[Any], socket.socket]:
    """Makes sockets for addresses of these kinds; others raise InnerAddress, which aiohttp wraps.
    Blocking: it looks up the proxies that the environment names, which are the user's own choice.
    """
    proxies = {address for name in _proxies() for address in _addresses_of(name)}

    def make(info: Any) -> socket.socket:
        family, type_, protocol, _, target = info
        if target[0] not in proxies and (kind := kind_of(target[0])) not in kinds:
            raise InnerAddress(_refusal(kind))
        return socket.socket(family, type_, protocol)

    return make


def checked_redirects(kinds: Kinds) -> aiohttp.TraceConfig:
    """Raises InnerAddress for a redirect to such an address, also where a proxy would connect, and
    for one that gives encryption up."""

    async def look(_: aiohttp.ClientSession, __: Any, params: Any) -> None:
        headers = params.response.headers
        target = params.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
        if params.url.scheme == "https" and target.scheme == "http":
            raise InnerAddress(f"{params.url.host} redirects to {target.host} without encryption")
        try:
            kind = kind_of(target.host or "")
        except ValueError:
            return
        if kind not in kinds:
            raise InnerAddress(_refusal(kind))

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(look)
    return trace


def _refusal(kind: Kind) -> str:
    return f"it leads to a {kind} address, which only a registry that is there itself may"


def _kinds_of(name: str) -> set[Kind]:
    return {kind_of(address) for address in _addresses_of(name)}


def _addresses_of(name: str) -> set[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(info[4][0]) for info in found}


def _proxies() -> set[str]:
    urls = urllib.request.getproxies()
    return {host for kind in ("http", "https") if (host := URL(urls.get(kind, "")).host)}
