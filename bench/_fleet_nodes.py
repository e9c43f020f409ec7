"""Nodes of a fleet and a front before them, each a process of its own, for benches: without Ray,
which has no part in a request."""

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench._ways import Way
from proxy.engine.ports import free_port
from proxy.fleet.member import Member, Members, line_of
from proxy.node.names import KEY_FILE_VARIABLE, KEY_HEADER, NODE_VARIABLE

START_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Fleet:
    nodes: Sequence[Way]
    front: Way


@contextlib.asynccontextmanager
async def fleet(policies: Sequence[str]) -> AsyncIterator[Fleet]:
    """A node with each of these policies, and a front that knows them all."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mf")))
        key_file, key = folder / "key", secrets.token_hex(16)
        key_file.touch(mode=0o600)
        key_file.write_text(key)
        lines = f"{KEY_HEADER}: {key}\r\n"
        nodes, members = [], []
        for number, text in enumerate(policies):
            name, port = f"node{number}", free_port()
            home = folder / name
            home.mkdir()
            (home / "policies.toml").write_text(text)
            command = ("proxy.cli.main", "serve", "--policies", f"{home}/policies.toml")
            env = {NODE_VARIABLE: name, KEY_FILE_VARIABLE: str(key_file)}
            process = await stack.enter_async_context(_process(home, port, env, *command))
            members.append(Member(name, f"http://127.0.0.1:{port}"))
            nodes.append(Way(f"{name} itself", port=port, keeps=True, pid=process.pid, lines=lines))
        home, port = folder / "front", free_port()
        home.mkdir()
        env = {NODE_VARIABLE: "node0", KEY_FILE_VARIABLE: str(key_file)}
        process = await stack.enter_async_context(_process(home, port, env, "proxy.fleet.front"))
        assert process.stdin is not None
        process.stdin.write(line_of(Members(members)))
        front = Way("through the front", port=port, keeps=True, pid=process.pid)
        yield Fleet(nodes, front)


@contextlib.asynccontextmanager
async def _process(
    home: Path, port: int, env: dict[str, str], module: str, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One that listens at a port by then."""
    with (home / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments, "--host", "127.0.0.1", "--port", str(port)),
            env=os.environ | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)} | env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
    try:
        async with asyncio.timeout(START_S):
            while not await _listens(port):
                if process.returncode is not None:
                    raise SystemExit(f"{module} ended:\n{(home / 'log').read_text()}")
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
