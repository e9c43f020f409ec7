"""The command `serve`: as systemd runs it, as a terminal does, and what ends it."""

import asyncio
import fcntl
import os
import pty
import resource
import signal
import socket
import sys
import termios
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.support.guard import HANG_S, until
from tests.support.serving import serving, with_policies
from tests.support.systemd import service


async def test_systemd_is_told_and_its_watchdog_fed(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    arguments = ("--port", "0", "--policies", str(tmp_path / "policies"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.setblocking(False)
        env = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1200000"}
        async with serving(tmp_path, *arguments, env=env) as proxy, asyncio.timeout(HANG_S):
            told = [await asyncio.get_running_loop().sock_recv(systemd, 100) for _ in range(4)]
            proxy.process.send_signal(signal.SIGTERM)
            assert await proxy.ended() == 0

    assert told == [b"READY=1", *[b"WATCHDOG=1"] * 3]


async def test_a_hangup_has_it_read_its_files_again(tmp_path: Path) -> None:
    """Where no terminal was closed. Systemd is told when that begins and when it is done."""
    arguments = with_policies(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.setblocking(False)
        env = {"NOTIFY_SOCKET": str(tmp_path / "n")}
        async with serving(tmp_path, *arguments, env=env) as proxy, asyncio.timeout(HANG_S):
            url = await proxy.url()
            proxy.process.send_signal(signal.SIGHUP)
            read = await proxy.logged("files_read_again")
            told = [await asyncio.get_running_loop().sock_recv(systemd, 100) for _ in range(3)]
            async with aiohttp.ClientSession(url) as session, session.get("/health") as health:
                assert health.status == 200
            proxy.process.send_signal(signal.SIGTERM)
            assert await proxy.ended() == 0

    assert read["models"] == 1
    assert told[0] == told[2] == b"READY=1"
    assert told[1].startswith(b"RELOADING=1\nMONOTONIC_USEC=")


async def test_a_hangup_while_it_starts_is_heard_later(tmp_path: Path) -> None:
    """It ended it, where there was no terminal: as when a file is written in the moment of a
    restart, and somebody has it read."""
    arguments = with_policies(tmp_path)
    async with serving(tmp_path, *arguments, start_new_session=True) as proxy:
        await until(lambda: hears_hangups(proxy.pid), "it hears signals")
        proxy.process.send_signal(signal.SIGHUP)
        await proxy.url()
        assert (await proxy.logged("files_read_again"))["models"] == 1
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.ended() == 0


def hears_hangups(pid: int) -> bool:
    """Whether it has a handler for this signal, and has blocked it, so that its thread gets it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = (int(status.split(f"{name}:")[1].split()[0], 16) for name in ("SigCgt", "SigBlk"))
    return all(mask & 1 << signal.SIGHUP - 1 for mask in masks)


@pytest.mark.parametrize("nohup", [False, True])
async def test_a_terminal_that_is_closed_ends_it(tmp_path: Path, nohup: bool) -> None:
    """Unless it was started with `nohup`. Where the terminal is still there, it reads its files."""
    ours, theirs = pty.openpty()

    def in_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    arguments = with_policies(tmp_path)
    async with serving(tmp_path, *arguments, preexec_fn=in_terminal, stdin=theirs) as proxy:
        os.close(theirs)
        url = await proxy.url()
        if not nohup:
            proxy.process.send_signal(signal.SIGHUP)
            await proxy.logged("files_read_again")
        os.close(ours)
        if nohup:
            async with aiohttp.ClientSession(url) as session, session.get("/health") as health:
                assert health.status == 200
            proxy.process.send_signal(signal.SIGTERM)
            assert (await proxy.logged("stopping"))["signal"] == "SIGTERM"
        else:
            assert (await proxy.logged("stopping"))["signal"] == "SIGHUP"
        assert await proxy.ended() == 0
        assert not proxy.folders()


async def test_who_follows_events_or_a_log_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Their streams come to an end in order, once it drains."""
    async with serving(tmp_path, *with_policies(tmp_path)) as proxy:
        async with aiohttp.ClientSession(await proxy.url()) as session:
            async with session.get("/admin/events") as events, session.get("/logs/stream") as log:
                await events.content.readline()
                proxy.process.send_signal(signal.SIGINT)
                async with asyncio.timeout(HANG_S):
                    await events.content.read()
                    await log.content.read()
        assert await proxy.ended() == 0

    assert not any("Traceback" in line for line in proxy.lines)


async def test_a_second_one_with_the_same_state_does_not_start(tmp_path: Path) -> None:
    """On another port, and though the first one's port was edited; commands find the first one."""
    arguments = with_policies(tmp_path)
    async with serving(tmp_path, *arguments) as first:
        url = await first.url()
        with_policies(tmp_path, server={"port": 1})
        await first.logged("policies_wait_for_restart")
        async with serving(tmp_path, *arguments) as second:
            assert await second.ended() == 2
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.cli.main", "models"),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"HOME": str(tmp_path), "MOE_PROXY_POLICIES": arguments[3]},
        )
        said, _ = await command.communicate()
        first.process.send_signal(signal.SIGTERM)
        assert await first.ended() == 0

    (why,) = second.lines
    assert why.startswith(f"moe-proxy: another moe-proxy (process {first.pid}, at {url}) has")
    assert (command.returncode, said.split()[:1]) == (0, [b"MODEL"])


async def test_it_goes_on_where_nobody_reads_its_log(tmp_path: Path) -> None:
    """As with `moe-proxy serve 2>&1 | head -1`."""
    reading, writing = os.pipe()
    port = _free_port()
    arguments = (*with_policies(tmp_path)[2:], "--port", str(port))
    async with serving(tmp_path, *arguments, stdout=writing, stderr=writing) as proxy:
        os.close(writing)
        os.close(reading)
        await _answers(port)
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await proxy.process.wait() == 0


async def test_it_goes_on_where_the_disk_of_its_log_is_full(tmp_path: Path) -> None:
    port = _free_port()
    arguments = (*with_policies(tmp_path)[2:], "--port", str(port))
    full = os.open("/dev/full", os.O_WRONLY)
    async with serving(tmp_path, *arguments, stderr=full) as proxy:
        os.close(full)
        await _answers(port)
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await proxy.process.wait() == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(port: int) -> None:
    """Wait until it serves, and ask for what is logged with an error."""
    async with (
        asyncio.timeout(HANG_S),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get("/v1/models") as models:
                    assert models.status == 200
                    break
            await asyncio.sleep(0.01)
        for _ in range(3):
            async with session.post("/v1/completions", json={"model": "nobody"}) as answer:
                assert answer.status == 404


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
