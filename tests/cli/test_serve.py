"""The command `serve`, as systemd runs it."""

import asyncio
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.support.guard import HANG_S
from tests.support.systemd import service


async def test_systemd_is_told_and_its_watchdog_fed(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.cli.main", "serve", "--port", "0"),
            *("--policies", str(tmp_path / "policies")),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ
            | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
            | {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1200000"},
        )
        try:
            async with asyncio.timeout(HANG_S):
                told = [await asyncio.get_running_loop().sock_recv(systemd, 100) for _ in range(4)]
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()

    assert told == [b"READY=1", *[b"WATCHDOG=1"] * 3]


async def test_the_watchdog_is_not_fed_while_no_client_would_get_an_answer(tmp_path: Path) -> None:
    """As with no descriptors left: the event loop turns, and that is all."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.setblocking(False)
        env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "400000"}
        (tmp_path / "policies").mkdir()
        arguments = ("--port", "0", "--policies", str(tmp_path / "policies"))
        async with asyncio.timeout(HANG_S), service(tmp_path, *arguments, env=env) as proxy:
            for _ in range(2):  # it is ready, and fed
                await loop.sock_recv(systemd, 100)
            pid = proxy.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
            await proxy.until("own_port_does_not_answer")
            while True:  # what was said before
                try:
                    systemd.recv(100)
                except BlockingIOError:
                    break
            for _ in range(2):
                await proxy.until("own_port_does_not_answer")
            with pytest.raises(BlockingIOError):
                systemd.recv(100)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            assert await loop.sock_recv(systemd, 100) == b"WATCHDOG=1"
