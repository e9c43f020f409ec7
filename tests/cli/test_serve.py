"""The command `serve`, as systemd runs it."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from tests.support.guard import HANG_S


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
            | {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "20000"},
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
