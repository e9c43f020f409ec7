"""Where a registry may lead us: out, and as near as itself."""

import socket
from typing import Any

import aiohttp
import pytest

from proxy.hub import addresses
from proxy.hub.addresses import (
    OUTSIDE,
    InnerAddress,
    checked_redirects,
    kind_of,
    may_reach,
    socket_factory,
)
from proxy.hub.fetch import led_inside
from proxy.hub.hub import Hub
from proxy.hub.progress import PullFailed
from tests.hub import servers
from tests.hub.conftest import MakeGguf
from tests.hub.test_pull import pulled


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "global"),
        ("2606:4700::1111", "global"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("10.0.0.5", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("0.0.0.0", "special"),
        ("::", "special"),
        ("255.255.255.255", "special"),
        ("224.0.0.1", "special"),
    ],
)
def test_kinds(address: str, kind: str) -> None:
    assert kind_of(address) == kind


def test_a_registry_may_lead_to_what_is_as_near_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"lan.example": "192.168.1.9", "bad.example": "127.0.0.1", "out.example": "8.8.8.8"}

    def look_up(name: str, *_: Any, **__: Any) -> list[Any]:
        if name not in names:
            raise socket.gaierror(-2, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[name], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    assert may_reach("127.0.0.1:5000") == OUTSIDE | {"loopback", "private"}
    assert may_reach("localhost") == OUTSIDE | {"loopback", "private"}
    assert may_reach("[::1]:5000") == OUTSIDE | {"loopback", "private"}
    assert may_reach("10.0.0.2:5000") == OUTSIDE | {"private"}
    assert may_reach("lan.example:443") == OUTSIDE | {"private"}
    for name in ("out.example", "bad.example", "nowhere.example"):
        assert may_reach(name) == OUTSIDE


async def test_a_name_that_resolves_to_us_is_refused_when_it_is_connected_to(
    server: servers.Hub,
) -> None:
    port = server.host.rpartition(":")[2]
    connector = aiohttp.TCPConnector(socket_factory=socket_factory(OUTSIDE))
    async with aiohttp.ClientSession(connector=connector) as session:
        for host in ("localhost", "127.0.0.1"):
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.get(f"http://{host}:{port}/")
            assert led_inside(refused.value)
    assert server.asked.total() == 0


async def test_a_proxy_that_the_user_names_may_be_anywhere(
    server: servers.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    connector = aiohttp.TCPConnector(socket_factory=socket_factory(OUTSIDE))
    async with aiohttp.ClientSession(
        connector=connector, trust_env=True, trace_configs=[checked_redirects(OUTSIDE)]
    ) as session:
        async with session.get("http://registry.example/v2/a/b/manifests/c") as answer:
            assert answer.status == 404
        server.redirect_to = "http://169.254.169.254"
        with pytest.raises(InnerAddress):
            await session.get("http://registry.example/v2/a/b/manifests/c")


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}", "http://169.254.169.254", "http://[::1]:{port}"]
)
@pytest.mark.parametrize("what", ["manifest", "blobs"])
async def test_a_registry_outside_may_not_lead_inside(
    what: str,
    target: str,
    hub: Hub,
    server: servers.Hub,
    gguf: MakeGguf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test's registry counts as one on the internet."""
    real = addresses.kind_of
    monkeypatch.setattr(
        addresses, "kind_of", lambda ip: "global" if ip == "127.0.0.1" else real(ip)
    )
    server.add_model("library/tiny:1b", [("model", gguf(1))], {})
    name = f"{server.host}/library/tiny:1b"
    server.redirect = True
    if what == "blobs":
        await pulled(hub, name)  # its redirects are to itself, and these are followed
        await hub.delete(name)
    port = server.host.rpartition(":")[2]
    server.redirect_to = target.format(port=port)
    server.redirects_manifests = what == "manifest"
    before = server.asked.total()

    with pytest.raises(PullFailed, match=r"leads to a (loopback|link-local) address"):
        await pulled(hub, name)

    assert server.asked.total() <= before + 2
