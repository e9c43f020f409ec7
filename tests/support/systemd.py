"""Plays systemd for a proxy: passes it sockets, starts it, and is told how it does."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.guard import HANG_S

# The numbers from 3 on, and the process id that only the process itself knows beforehand.
PASS = 'n=3; for fd in $FDS; do eval "exec $n<&$fd"; n=$((n+1)); done; LISTEN_PID=$$ exec "$@"'


class Service:
    """One run of `moe-proxy serve`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.logged: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """The next log line with this event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(HANG_S):
            while line := await self.process.stderr.readline():
                if line.startswith(b"{"):
                    self.logged.append(json.loads(line))
                    if self.logged[-1]["event"] == event:
                        return self.logged[-1]
        raise AssertionError(f"it ended without {event}: {self.logged}")

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        async with asyncio.timeout(HANG_S):
            _, rest = await self.process.communicate()
        lines = rest.decode().splitlines()
        self.logged += [json.loads(line) for line in lines if line.startswith("{")]
        return self.process.returncode or 0


@contextlib.asynccontextmanager
async def service(
    folder: Path,
    *arguments: str,
    sockets: Sequence[socket.socket] = (),
    env: Mapping[str, str] = os.environ,
    within: Sequence[str] = (),
) -> AsyncIterator[Service]:
    """`moe-proxy serve` as systemd starts it, with `sockets` passed to it. `within` is a command
    that starts the one behind it."""
    numbers = [sock.fileno() for sock in sockets]
    passing = {
        "FDS": " ".join(map(str, numbers)),
        "LISTEN_FDS": str(len(numbers)),
        "LISTEN_FDNAMES": ":".join(f"number-{index}" for index in range(len(numbers))),
    }
    command = [sys.executable, "-m", "proxy.cli.main", "serve", "--log-format", "json"]
    process = await asyncio.create_subprocess_exec(
        *(("bash", "-c", PASS, "bash") if numbers else ()),
        *within,
        *command,
        *arguments,
        pass_fds=numbers,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**env, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        | (passing if numbers else {}),
    )
    try:
        yield Service(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@contextlib.contextmanager
def bound(*addresses: Any) -> Any:
    """Listening sockets, as a socket unit has them: (host, port) for TCP, else a path."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for address in addresses:
            if isinstance(address, tuple):
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            else:
                family, address = socket.AF_UNIX, str(address)
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.bind(address)
            sock.listen(4096)
            sockets.append(sock)
        yield sockets
