"""Three real nodes, two of them with a device of the same name, and a front before them: one fleet
for all tests of a file."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.support.fleet import Front, Node, front, node
from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model

ADMIN, USE = "an-admins-key", "a-key-for-use"
KEYS = f"{ADMIN} admin boss\n{USE} use guest\n"
ENDLESS = {"args": ["--context-shift"], "params": {"ignore_eos": True}}


@dataclass
class FleetRig:
    """The fleet, and a client of its front that has an admin's key."""

    front: Front
    nodes: dict[str, Node]
    keys: Path
    session: aiohttp.ClientSession
    members: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.front.url

    async def ask(
        self, method: str, path: str, *, status: int = 200, node: str | None = None, **more: Any
    ) -> Any:
        headers = {"X-Moe-Proxy-Node": node} if node else {}
        headers |= more.pop("headers", {})
        async with self.session.request(method, path, headers=headers, **more) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return await answer.json() if "json" in answer.content_type else text

    async def get(self, path: str, **more: Any) -> Any:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return await self.ask("POST", path, json=body, **more)

    async def put(self, path: str, body: Any, **more: Any) -> Any:
        return await self.ask("PUT", path, json=body, **more)

    async def states(self) -> dict[str, str]:
        return {each["name"]: each["state"] for each in (await self.get("/admin/state"))["nodes"]}

    async def loaded(self) -> dict[str, str]:
        """What is loaded: models, by the ids of their backends."""
        backends = (await self.get("/admin/state"))["backends"]
        return {each["id"]: each["model"] for each in backends if each["state"] == "ready"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FleetRig]:
    folder = tmp_path_factory.mktemp("fleet")
    keys = folder / "keys"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    tables: dict[str, Any] = {
        "server": {"api_keys_file": keys, "warm_workers": 0},
        "defaults": {"ctx": 512, "parallel": 2, "keep_alive": "-1", "repack": "off"},
    }
    m = {"path": model(layers=4), **ENDLESS}
    n = {"path": model(layers=2), **ENDLESS}
    async with AsyncExitStack() as stack:
        nodes = {}
        for name in ("attic", "cellar"):
            server = await stack.enter_async_context(rpc_server(1))
            own = {"m": {**m, "rpc": [server]}}
            nodes[name] = await stack.enter_async_context(node(folder, name, own, **tables))
        nodes["desk"] = await stack.enter_async_context(node(folder, "desk", {"n": n}, **tables))
        members = [each.member for each in nodes.values()]
        at_front = await stack.enter_async_context(front(folder, *members))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                at_front.url,
                headers={"Authorization": f"Bearer {ADMIN}"},
                timeout=aiohttp.ClientTimeout(total=None),
            )
        )
        yield FleetRig(at_front, nodes, keys, session, members)


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: FleetRig) -> FleetRig:
    """With all nodes there, and nothing loaded."""

    async def all_there() -> bool:
        async with shared.session.get("/admin/state") as answer:
            told = await answer.json()
        nodes = {each["name"]: each["state"] for each in told.get("nodes", ())}
        return nodes == dict.fromkeys(shared.nodes, "ready")

    await until(all_there, "all nodes answer")
    await shared.get("/unload")
    return shared
