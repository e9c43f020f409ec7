"""A fleet of two machines whose Ray speaks TLS: so do its nodes, and what they lend each other. Who
has no certificate of theirs gets nothing. One story, in the order of its tests."""

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.certificates import certificates, needs_openssl
from tests.support.guard import HANG_S
from tests.support.ray_fleet import RayFleet, ray_fleet

pytestmark = [
    pytest.mark.llama,
    needs_openssl,
    pytest.mark.skipif(
        find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
    ),
]


@pytest.fixture(scope="module")
def fleet(thorough: bool) -> Iterator[RayFleet]:
    if not thorough:
        pytest.skip("two starts of Ray take most of a minute: --thorough")
    from ray.util import get_node_ip_address

    with ray_fleet() as made:
        made.shared_env = certificates(made.folder / "tls", "fleet", get_node_ip_address())
        yield made


def test_who_has_no_certificate_of_the_fleet_does_not_join(fleet: RayFleet) -> None:
    fleet.start()
    host, _, _ = fleet.head.rpartition(":")
    ours, others = fleet.shared_env, certificates(fleet.folder / "others", "others", host)

    for theirs, why in (({}, "speaks TLS"), (others, "each other's certificates")):
        fleet.shared_env = theirs
        assert why in fleet.fleet("up", "--head", fleet.head, of="b", fails=True)

    fleet.shared_env = ours
    assert fleet.pids(of="b") == []


def test_who_has_one_joins_and_answers_through_the_others_front(fleet: RayFleet) -> None:
    text = fleet.policy("a").read_text()
    fleet.policy("a").write_text(f'{text}\n[models.own-b]\nrpc = "fleet"\n')

    fleet.join_by_up("b")

    nodes = fleet.nodes()
    assert {each["state"] for each in nodes.values()} == {"ready"}
    assert {urlsplit(each["url"]).scheme for each in nodes.values()} == {"https"}
    question = {"model": "own-b", "max_tokens": 1, "prompt": "once"}
    answer = fleet.ask(fleet.front, "/v1/completions", question)
    assert answer["headers"]["X-Moe-Proxy-Node"] == "b"


def test_without_one_nothing_is_got_of_a_node_of_what_it_lends_and_of_ray(fleet: RayFleet) -> None:
    devices = fleet.ask(fleet.front, "/admin/state")["devices"]
    assert [(each["node"], each["name"]) for each in devices] == [("b", "RPC0")]
    (giver,) = fleet.pids("proxy.fleet.rpc.giver", of="a")
    host, _, ray = fleet.head.rpartition(":")
    node = urlsplit(fleet.nodes()["b"]["url"]).port
    assert node is not None

    for port in (int(ray), node, *listens_at(giver)):
        assert got_without_certificate(host, port) == b""


def got_without_certificate(host: str, port: int) -> bytes:
    """By TLS, which has to be spoken there."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, port), HANG_S) as plain:
        with context.wrap_socket(plain) as connection, suppress(OSError):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(1000)
    return b""


def listens_at(pid: int) -> set[int]:
    """A process's ports."""
    process = Path("/proc", str(pid))
    own = {os.readlink(each) for each in (process / "fd").iterdir()}
    rows = [row.split() for row in (process / "net" / "tcp").read_text().splitlines()[1:]]
    found = {
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if row[3] == "0A" and f"socket:[{row[9]}]" in own  # it listens
    }
    assert found
    return found


def test_down_ends_it(fleet: RayFleet) -> None:
    fleet.fleet("down")

    assert fleet.pids(of="a") == []
