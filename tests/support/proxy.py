"""A real proxy for tests: the whole application on a free port, with policies in a file that can be
edited."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from proxy.app import Running, Settings, running
from tests.support.guard import HANG_S, until


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

    async def apply(self, text: str) -> None:
        """Save other policies, and wait until they hold and everybody has been told of them."""
        told = asyncio.Event()

        async def last(*_: object) -> None:
            told.set()

        end = self.app.services.policies.subscribe(last)  # they are told in turn
        try:
            self.edit(text)
            async with asyncio.timeout(HANG_S):
                await told.wait()
        finally:
            end()

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

    async def ready(self) -> list[dict[str, Any]]:
        """The backends that serve, from /admin/state."""
        backends = (await self.get("/admin/state"))["backends"]
        return [backend for backend in backends if backend["state"] == "ready"]

    async def backend(self, model: str) -> dict[str, Any]:
        """The only ready backend of a model."""
        ready = await self.ready()
        (found,) = [backend for backend in ready if backend["model"] == model]
        return found

    async def until_ready(self, **values: object) -> dict[str, Any]:
        """The only ready backend, once this is so of it."""

        async def found() -> dict[str, Any] | None:
            ready = await self.ready()
            return ready[0] if len(ready) == 1 and ready[0] | values == ready[0] else None

        return dict(await until(found, f"one backend with {values}"))

    async def events(self, *kinds: str) -> AsyncIterator[dict[str, Any]]:
        """The events of these kinds, from now on."""
        async with self.session.get("/admin/events", timeout=aiohttp.ClientTimeout(None)) as stream:
            async for line in stream.content:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    if event["kind"] in kinds:
                        yield event


@contextlib.asynccontextmanager
async def proxy(
    folder: Path, policies: str, *, port: int = 0, env: Mapping[str, str] | None = None
) -> AsyncIterator[Proxy]:
    """Serve with these policies (TOML), kept in `folder`/policies.toml."""
    file = folder / "policies.toml"
    file.write_text(policies)
    env = {"HOME": str(folder), "MOE_PROXY_POLICIES": "", **(env or {})}
    async with (
        running(Settings(port=port, policies=file, env=env)) as app,
        aiohttp.ClientSession(app.url, timeout=aiohttp.ClientTimeout(None)) as session,
    ):
        yield Proxy(app, session, file)
