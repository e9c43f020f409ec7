"""Three nodes and a front, for the tests of a file that disturb none of them."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.node.names import KEY_HEADER, OWN_HEADER
from tests.support.fleet import KEY, Front, Node, front, node
from tests.support.models import model

API_KEY = "of-the-third-node"
OWN = {KEY_HEADER: KEY, OWN_HEADER: "1"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Fleet:
    """Model `a` is on n1 and n2, `b` on n3, which asks for an API key."""

    front: Front
    nodes: Mapping[str, Node]
    session: aiohttp.ClientSession

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """The front's answer."""
        async with self.session.post(self.front.url + path, json=body, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **headers: str) -> Answer:
        async with self.session.get(self.front.url + path, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def state(self, name: str) -> dict[str, Any]:
        """What a node itself says."""
        url = self.nodes[name].url + "/admin/state"
        async with self.session.get(url, headers=OWN) as answer:
            return dict(await answer.json())

    async def knows_both(self) -> bool:
        """Whether the front has heard of n1 and n2 that they have loaded a model."""
        url, headers = (
            f"{self.front.url}/admin/events?state",
            {"Authorization": f"Bearer {API_KEY}"},
        )
        async with self.session.get(url, headers=headers) as stream:
            while not (line := await stream.content.readline()).startswith(b"data: "):
                assert line
        backends = json.loads(line[6:])["backends"].values()
        return {"n1", "n2"} <= {each["node"] for each in backends if each["state"] == "ready"}

    async def requests_at(self, name: str) -> int:
        return len((await self.state(name))["requests"])


def usual_model() -> dict[str, Any]:
    return {"path": model(layers=4), "ctx": 4096, "parallel": 2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("fleet")
    keys = folder / "api-keys"
    keys.write_text(API_KEY + "\n")
    keys.chmod(0o600)
    a, b = {"a": usual_model()}, {"b": {"path": model(layers=4, seed=1), "ctx": 4096}}
    timeout = aiohttp.ClientTimeout(None)
    async with (
        node(folder, "n1", a) as n1,
        node(folder, "n2", a) as n2,
        node(folder, "n3", b, server={"api_keys_file": keys}) as n3,
        front(folder, n1.member, n2.member, n3.member) as one,
        aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
        ) as session,
    ):
        yield Fleet(one, {"n1": n1, "n2": n2, "n3": n3}, session)
