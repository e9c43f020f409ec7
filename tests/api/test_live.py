"""What is told of what changes all the time, to those who follow."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.api.live import EVERY_S
from tests.api.test_merge_patch import merged
from tests.support.guard import HANG_S, until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama
TOPICS = ("proxy", "memory", "backends", "requests")


class Follower:
    """Puts each patch on what it knows, as the page does."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.seen: list[tuple[float, str, dict[str, Any]]] = []

    async def read(self, stream: Any) -> None:
        kind = ""
        async for line in stream.content:
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
            elif line.startswith(b"data: "):
                self.take(kind, json.loads(line[6:]))

    def take(self, kind: str, data: dict[str, Any]) -> None:
        self.seen.append((asyncio.get_running_loop().time(), kind, data))
        if kind == "state":
            self.known = data
        elif kind in TOPICS:
            self.known[kind] = merged(self.known.get(kind), data["patch"])

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for _, seen, data in self.seen if seen == kind]


@asynccontextmanager
async def following(server: Proxy, query: str = "?state") -> AsyncIterator[Follower]:
    follower = Follower()
    async with server.session.get(f"/admin/events{query}") as stream:
        reading = asyncio.create_task(follower.read(stream))
        try:
            yield follower
        finally:
            reading.cancel()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with rpc_server() as device:
        tiny = {"path": model(layers=4), "ctx": 1024}
        devices = {"rpc": [device], "settle": "100ms"}
        async with proxy(tmp_path, policies({"tiny": tiny}, devices=devices)) as made:
            yield made


async def test_a_follower_knows_what_there_is(server: Proxy) -> None:
    await server.post("/admin/models/tiny/load")
    async with following(server) as follower:
        await until(lambda: follower.known, "it begins with all of it")
        await server.put("/admin/backends/b1/split", {"moe_cpu_layers": 2})
        await until(
            lambda: follower.known["backends"]["b1"].get("moe_cpu_layers") == 2, "it is told"
        )
        told, asked = follower.known["backends"]["b1"], await server.backend("tiny")

        assert [layer["experts"] for layer in told["layers"]] == [
            layer["experts"] for layer in asked["layers"]
        ]
        assert told["asked"] == 2
        await until(lambda: set(follower.known["memory"]["devices"]) == {"RPC0"}, "it is there")
        await server.post("/admin/models/tiny/unload")
        await until(lambda: not follower.known["backends"], "what is gone is gone")


async def test_each_move_is_told_as_it_begins_and_ends_and_why(server: Proxy) -> None:
    await server.post("/admin/models/tiny/load")
    await server.until_ready(moe_cpu_layers=0)
    async with following(server, "") as follower:
        await until(lambda: follower.of("memory"), "it follows")
        await server.put("/admin/backends/b1/split", {"moe_cpu_layers": 3})
        await until(lambda: follower.of("moved"), "it has moved")

    (began,), (ended,) = follower.of("moving"), follower.of("moved")
    assert began | {"at": 0} == {
        "at": 0, "kind": "moving", "backend": "b1", "model": "tiny", "moe_cpu_layers": 0,
        "why": "operator", "to": 3, "for": None,
    }  # fmt: skip
    assert (ended["moe_cpu_layers"], ended["why"], ended["layers"]) == (3, "operator", 3)
    (backend,) = await server.ready()
    size = backend["layers"][0]["experts_bytes"]
    assert ended["bytes"] == 3 * size


async def test_one_that_goes_where_it_is_moves_nothing(server: Proxy) -> None:
    await server.post("/admin/models/tiny/load")
    await server.until_ready(moe_cpu_layers=0)
    async with following(server, "") as follower:
        await until(lambda: follower.of("memory"), "it follows")
        await server.put("/admin/backends/b1/split", {"moe_cpu_layers": 0})
        await server.put("/admin/backends/b1/split", {"moe_cpu_layers": 1})
        await until(lambda: follower.of("moved"), "it has moved")

    assert [event["to"] for event in follower.of("moving")] == [1]


async def test_memory_is_told_once_a_second_at_most(server: Proxy) -> None:
    async with following(server) as follower:
        for number in range(12):
            server.app.services.events.publish("something", number=number)
            await asyncio.sleep(0)
            await until(lambda: len(follower.of("something")) > number, "it is told")  # noqa: B023
            await until(lambda: follower.of("memory") or number < 11, "and memory")  # noqa: B023
        await until(lambda: len(follower.of("memory")) >= 3, "memory changes all the time")

    times = [at for at, kind, _ in follower.seen if kind == "memory"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) > EVERY_S / 2


async def test_nothing_is_computed_while_nobody_follows(
    server: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(_: object) -> dict[str, Any]:
        looks.append(1)
        return {}

    monkeypatch.setattr("proxy.api.live.requests_state", look)
    async with following(server) as follower:
        await until(lambda: follower.known, "somebody follows")
    await until(lambda: not server.app.services.events.is_followed, "it has left")
    before = len(looks)
    server.app.services.events.publish("something")
    async with asyncio.timeout(HANG_S):
        await asyncio.sleep(EVERY_S)  # as long as it would have been told by then

    assert before
    assert len(looks) == before


async def test_a_page_that_joins_changes_nothing_for_others(server: Proxy) -> None:
    """What one gets first is what the patches after it are put on, for all."""
    async with following(server) as first:
        await until(lambda: first.known, "it follows")
        loading = asyncio.create_task(server.post("/admin/models/tiny/load"))
        while not loading.done():
            async with following(server) as other:
                await until(lambda: other.known, "another one joins")
        await loading
        await server.until_ready(moe_cpu_layers=0)
        async with following(server) as last:
            await until(lambda: last.known, "one more")
            states = [one.known["backends"].get("b1", {}).get("state") for one in (first, last)]
            await until(lambda: first.known["backends"]["b1"].get("state") == "ready", f"{states}")
