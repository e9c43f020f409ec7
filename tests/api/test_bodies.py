"""Bodies that are too much, that stop coming, and those that others send meanwhile."""

import asyncio
import gzip
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.api import bodies
from tests.support.guard import HANG_S, until
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

POLICIES = '[server]\nmax_body = "256KiB"\nmax_bodies = "512KiB"\n[catalog]\nollama = false\n'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n"


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    text = f'{POLICIES}state = "{tmp_path}/state"\n'
    async with proxy(tmp_path, text) as running:
        yield running


class Client:
    """A connection whose bytes a test sends itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def status(self) -> int:
        async with asyncio.timeout(HANG_S):
            line = await self._reader.readline()
        return int(line.split()[1])

    def close(self) -> None:
        self._writer.close()


async def connected(asked: Proxy) -> Client:
    port = int(asked.url.rpartition(":")[2])
    return Client(*await asyncio.open_connection("127.0.0.1", port))


def held_bytes(asked: Proxy) -> int:
    return asked.app.services.bodies.held_bytes


async def test_all_bodies_together_have_a_limit(asked: Proxy) -> None:
    """And what is over gives its part back."""
    half = bytes(200 << 10)
    clients = [await connected(asked) for _ in range(4)]
    for client in clients[:2]:
        await client.send(HEAD % b"Content-Length: 250000" + half)
    await until(lambda: held_bytes(asked) == 2 * len(half), "both are there")

    await clients[2].send(HEAD % b"Content-Length: 250000" + half)
    async with asked.session.post("/api/show", json={"model": "none"}) as answer:
        assert answer.status == 404, "a small one still fits"
    assert await clients[2].status() == 503
    async with asked.session.post("/v1/completions", data=half) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"

    clients[0].close()
    await until(lambda: held_bytes(asked) == len(half), "one of them left")
    await clients[3].send(HEAD % b"Content-Length: 204800" + half)
    assert await clients[3].status() == 400
    for client in clients:
        client.close()
    await until(lambda: held_bytes(asked) == 0, "all are gone")


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    "path", [b"/v1/completions", b"/api/chat", b"/api/blobs/sha256:" + b"0" * 64]
)
async def test_a_body_that_stops_coming_is_given_up(
    framing: bytes, path: bytes, asked: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "STALLED_S", 0.2)
    client = await connected(asked)

    await client.send((HEAD % framing).replace(b"/v1/completions", path))

    assert await client.status() == 408
    client.close()


async def test_a_body_that_only_trickles_is_given_up(
    asked: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "STALLED_S", 0.5)
    client = await connected(asked)
    await client.send(HEAD % b"Content-Length: 100000")
    status = asyncio.create_task(client.status())
    while not status.done():
        await client.send(b"x")
        await asyncio.sleep(0.05)

    assert await status == 408
    client.close()


@pytest.mark.parametrize(
    "body", [b"[" * 20_000, b'{"model": "m", "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"]
)
@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/messages", "/api/chat", "/api/show", "/api/create"]
)
async def test_a_body_that_is_nested_too_deep_is_a_bad_request(
    path: str, body: bytes, asked: Proxy
) -> None:
    async with asked.session.post(path, data=body) as answer:
        assert answer.status == 400
        assert body[:1] == b"[" or "nested too deep" in await answer.text()


@pytest.mark.parametrize("depth", range(850, 1000, 7))
async def test_so_is_one_that_is_nested_just_too_deep(depth: int, asked: Proxy) -> None:
    tools = b'{"model": "m", "tool_choice": 1, "tools": ' + b"[" * depth + b"]" * depth + b"}"
    async with asked.session.post("/v1/chat/completions", data=tools) as answer:
        assert answer.status in (400, 404)


async def test_a_body_that_unpacks_to_too_much_is_refused(asked: Proxy) -> None:
    headers = {"Content-Encoding": "gzip"}
    for data, status in ((gzip.compress(bytes(64 << 20)), 413), (b"no gzip at all", 400)):
        async with asked.session.post("/v1/completions", data=data, headers=headers) as answer:
            assert answer.status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/completions"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/api/chat"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("PUT", "/admin/policies/policies.toml"),
        ("PUT", "/admin/models/m/split"),
    ],
)
async def test_only_what_is_over_the_limit_is_too_large(
    method: str, path: str, asked: Proxy
) -> None:
    """Some had a limit of their own, and told people to change another one."""
    for size, large in ((256 << 10, False), ((256 << 10) + 1, True)):
        async with asked.session.request(method, path, data=b" " * size) as answer:
            assert (answer.status == 413) is large
            assert large is False or "max_body" in await answer.text()


async def test_the_limit_may_be_raised_for_all(tmp_path: Path) -> None:
    text = policies({}, server={"max_body": "128MiB"}, catalog={"state": tmp_path / "state"})
    much = b'{"model": "m", "system": "%s"' % (b"x" * (65 << 20))
    async with proxy(tmp_path, text) as asked:
        for method, path, status in (
            ("POST", "/api/create", 400),
            ("POST", "/api/show", 400),
            ("PUT", "/admin/models/m/split", 400),
            ("PUT", "/admin/policies/policies.toml", 400),
        ):
            async with asked.session.request(method, path, data=io.BytesIO(much)) as answer:
                assert answer.status == status, (path, await answer.text())


async def test_files_that_come_as_blobs_have_no_limit_but_the_disk(asked: Proxy) -> None:
    data = bytes(5 << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    for body in (io.BytesIO(data), pieces()):
        async with asked.session.post(f"/api/blobs/{digest}", data=body) as answer:
            assert answer.status in (200, 201), await answer.text()
