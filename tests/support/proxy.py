"""A real proxy for tests: the whole application on a free port, with policies in a file that can be
edited."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from proxy.app import Running, Settings, running


class Proxy:
    """A running proxy, and a client of it."""

    def __init__(self, running: Running, session: aiohttp.ClientSession, policies: Path) -> None:
        self.app, self.session, self.policies = running, session, policies
        self.url = running.url

    def edit(self, text: str) -> None:
        """Save the policies as editors do: a temporary file, then a rename."""
        temporary = self.policies.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(self.policies)

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        async with self.session.post(path, json=body) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json() if "json" in answer.content_type else await answer.text()

    async def put(self, path: str, body: Any, *, status: int = 200) -> Any:
        async with self.session.put(path, json=body) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def backend(self, model: str) -> dict[str, Any]:
        """The ready backend of a model, from /admin/state."""
        backends = (await self.get("/admin/state"))["backends"]
        found = [b for b in backends if b["model"] == model and b["state"] == "ready"]
        assert len(found) == 1, backends
        return dict(found[0])

    async def events(self, *kinds: str) -> AsyncIterator[dict[str, Any]]:
        """The events of these kinds, from now on."""
        async with self.session.get("/admin/events", timeout=aiohttp.ClientTimeout(None)) as stream:
            async for line in stream.content:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    if event["kind"] in kinds:
                        yield event


@contextlib.asynccontextmanager
async def proxy(folder: Path, policies: str) -> AsyncIterator[Proxy]:
    """Serve with these policies (TOML), kept in `folder`/policies.toml."""
    file = folder / "policies.toml"
    file.write_text(policies)
    env = {"HOME": str(folder), "MOE_PROXY_POLICIES": ""}
    async with (
        running(Settings(port=0, policies=file, env=env)) as app,
        aiohttp.ClientSession(app.url, timeout=aiohttp.ClientTimeout(None)) as session,
    ):
        yield Proxy(app, session, file)
