"""The command `rpc-server`: llama.cpp's own, as it is started, used and ended."""

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from proxy.cli.main import main
from proxy.cli.rpc_server import is_loopback, policy_lines
from proxy.engine.ports import free_port
from tests.support.guard import HANG_S, until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama


async def test_its_lines_work_in_a_policy_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli.main", "rpc-server", "--port", str(port)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stderr is not None
        said = ""
        async with asyncio.timeout(HANG_S):
            while "Ctrl-C" not in said:
                said += (await server.stderr.readline()).decode()
        await until(lambda: listens(port), "it listens")
        (line,) = [line.strip() for line in said.splitlines() if line.startswith("  rpc = ")]
        text = policies({"m": {"path": model(layers=2), "ctx": 256}})
        async with proxy(tmp_path, f"[devices]\n{line}\n{text}") as running:
            await running.post("/admin/models/m/load")

            async def devices() -> list[str]:
                found = (await running.get("/admin/state"))["devices"]
                return [device["description"] for device in found]

            known = await until(devices, "the worker has told of its devices")
        server.send_signal(signal.SIGINT)
        async with asyncio.timeout(HANG_S):
            status = await server.wait()
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()

    assert known == [f"127.0.0.1:{port}"]
    assert status == -signal.SIGINT
    assert "WARNING" not in said


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["rpc-server", "--port", str(port)]) == 2

    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in capsys.readouterr().err


def test_who_reaches_it_from_elsewhere_is_warned_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run(_: str, argv: list[str]) -> NoReturn:
        ran.append(argv)
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", run)
    for host in ("0.0.0.0", "127.0.0.1"):
        with pytest.raises(SystemExit):
            main(["rpc-server", "--host", host, "--port", str(free_port()), "--threads", "3"])
        assert ("WARNING" in capsys.readouterr().err) == (host == "0.0.0.0")

    assert ran[0][1:3] == ["-H", "0.0.0.0"]
    assert ran[0][-2:] == ["-t", "3"]


def test_addresses() -> None:
    assert is_loopback("localhost")
    assert is_loopback("::1")
    assert not is_loopback("192.168.1.5")
    assert 'rpc = ["[::1]:5"]' in policy_lines("::1", 5)
    assert f'rpc = ["{socket.gethostname()}:5"]' in policy_lines("0.0.0.0", 5)
