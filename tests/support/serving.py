"""`moe-proxy serve` as a process of its own, for tests of its start, its signals and its end."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from proxy.engine.guardian import forget_group, keep_group
from tests.support.guard import HANG_S, until
from tests.support.models import model
from tests.support.policies import policies

SERVE = (sys.executable, "-m", "proxy.cli.main", "serve")


class Serving:
    """The process, what it has logged, and the folder in which its sockets are."""

    def __init__(self, process: asyncio.subprocess.Process, runtime: Path) -> None:
        self.process, self.runtime = process, runtime
        self.lines: list[str] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    async def logged(self, event: str) -> dict[str, Any]:
        """The next log line with this event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(HANG_S):
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                if line.startswith("{") and json.loads(line)["event"] == event:
                    return dict(json.loads(line))
        raise AssertionError(f"it ended without {event}: {''.join(self.lines[-20:])}")

    async def url(self) -> str:
        """Where it serves, once it does."""
        return str((await self.logged("serving"))["url"])

    async def ended(self) -> int:
        """Its exit status; what it says meanwhile is read."""
        assert self.process.stderr is not None
        async with asyncio.timeout(HANG_S):
            self.lines += (await self.process.stderr.read()).decode().splitlines(keepends=True)
            return await self.process.wait()

    def folders(self) -> list[Path]:
        """What it has in the runtime folder."""
        return list(self.runtime.glob("*moe-proxy-*"))


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *arguments: str,
    before: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Serving]:
    """Run it at home in `folder`; `before` is put before its command line."""
    with tempfile.TemporaryDirectory(prefix="rt-") as runtime:  # a short name: sockets are in it
        home = {"XDG_RUNTIME_DIR": runtime, "HOME": str(folder), **(env or {})}
        process = await asyncio.create_subprocess_exec(
            *(*before, *SERVE, "--log-format", "json", *arguments),
            **{"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.PIPE} | options,
            env=os.environ | home,
            limit=1 << 20,
        )
        keep_group(process.pid)
        try:
            yield Serving(process, Path(runtime))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            forget_group(process.pid)


def with_policies(folder: Path, **tables: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments of a proxy with one model, `m`, on a free port."""
    file = folder / "p.toml"
    file.write_text(policies({"m": {"path": model(layers=4), "ctx": 4096}}, **tables))
    return ("--port", "0", "--policies", str(file))


class HasPid(Protocol):
    @property
    def pid(self) -> int | None: ...


def pid_of(what: HasPid) -> int:
    """Of a process that runs. (0, to `os.kill`, is whoever runs the tests.)"""
    assert what.pid, f"{what} does not run"
    return what.pid


def runs(pid: int) -> bool:
    """Whether it is there, and no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(*pids: int) -> None:
    await until(lambda: not any(map(runs, pids)), f"{pids} have ended")
