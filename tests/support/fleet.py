"""Nodes and fronts of a fleet, as processes of their own, without Ray."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from proxy.engine.guardian import forget_group, keep_group
from proxy.fleet.member import Member, Members, line_of
from proxy.node.names import KEY_FILE_VARIABLE, NODE_VARIABLE
from tests.support.guard import HANG_S
from tests.support.policies import policies
from tests.support.serving import Serving, serving

KEY = "a-key-for-the-fleet-of-a-test"
FRONT = (sys.executable, "-m", "proxy.fleet.front")


def key_file(folder: Path) -> Path:
    file = folder / "fleet-key"
    if not file.exists():
        file.touch(0o600)
        file.write_text(KEY)
    return file


class Node:
    """A real `moe-proxy serve`, which takes nobody's requests but the fleet's."""

    def __init__(self, name: str, serving: Serving, url: str) -> None:
        self.name, self.serving, self.url = name, serving, url
        self.member = Member(name, url)

    @property
    def pid(self) -> int:
        return self.serving.pid


@contextlib.asynccontextmanager
async def node(
    folder: Path,
    name: str,
    models: Mapping[str, Mapping[str, Any]],
    *,
    port: int = 0,
    env: Mapping[str, str] | None = None,
    **tables: Mapping[str, Any],
) -> AsyncIterator[Node]:
    """One with these models, at home in `folder`/`name`."""
    home = folder / name
    home.mkdir(exist_ok=True)
    (home / "p.toml").write_text(policies(models, **tables))
    env = {NODE_VARIABLE: name, KEY_FILE_VARIABLE: str(key_file(folder)), **(env or {})}
    arguments = ("--port", str(port), "--policies", str(home / "p.toml"))
    async with serving(home, *arguments, env=env) as child:
        url = await child.url()
        reading = asyncio.ensure_future(_drop(child))
        try:
            yield Node(name, child, url)
        finally:
            reading.cancel()


class Front:
    """A real front, whose members are what a test says."""

    def __init__(self, process: asyncio.subprocess.Process, serving: Serving, url: str) -> None:
        self.process, self.serving, self.url = process, serving, url

    async def tell(self, *members: Member) -> None:
        """From now on these are the nodes."""
        assert self.process.stdin is not None
        self.process.stdin.write(line_of(Members(members)))
        await self.process.stdin.drain()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextlib.asynccontextmanager
async def front(
    folder: Path, *members: Member, fd: int | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[Front]:
    where = ("--fd", str(fd)) if fd is not None else ("--port", "0")
    env = {NODE_VARIABLE: "here", KEY_FILE_VARIABLE: str(key_file(folder)), **(env or {})}
    process = await asyncio.create_subprocess_exec(
        *(*FRONT, *where, "--log-format", "json"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | env,
        pass_fds=() if fd is None else (fd,),
        limit=1 << 20,
    )
    keep_group(process.pid)
    log = Serving(process, folder)
    try:
        url = str((await log.logged("front_serving"))["url"])
        reading = asyncio.ensure_future(_drop(log))
        one = Front(process, log, url)
        await one.tell(*members)
        yield one
        reading.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HANG_S):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        forget_group(process.pid)


async def _drop(child: Serving) -> None:
    """Keep what it logs, so that it never waits for somebody to read it."""
    assert child.process.stderr is not None
    while line := await child.process.stderr.readline():
        child.lines.append(line.decode())
