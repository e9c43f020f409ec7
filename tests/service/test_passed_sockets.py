"""The proxy as a process whose sockets are passed to it, by the real protocol."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from proxy.service.passed_sockets import passed_sockets
from tests.support.guard import HANG_S, until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.systemd import Service, bound, service

HERE = ("127.0.0.1", 0)
ONCE = aiohttp.ClientTimeout(HANG_S)


def url(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


def with_policies(folder: Path, **server: object) -> tuple[str, str]:
    """The arguments of a proxy with one model, whose own port nobody could listen on."""
    file = folder / "p.toml"
    one = {"m": {"path": model(layers=4), "ctx": 4096}}
    file.write_text(policies(one, server={"host": "203.0.113.1", "drain": "60s"} | server))
    return ("--policies", str(file))


def alone() -> aiohttp.ClientSession:
    """Each request makes a connection of its own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0), timeout=ONCE
    )


def more_than(found: list[int], enough: int) -> bool:
    return len(found) > enough


async def stop(one: Service) -> int:
    one.process.send_signal(signal.SIGTERM)
    return await one.ended()


async def test_it_serves_on_every_socket_and_binds_none_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "s"
    addresses = [HERE, path] + ([("::1", 0)] if has_ipv6() else [])
    with bound(*addresses) as sockets:
        async with service(tmp_path, *with_policies(tmp_path), sockets=sockets) as proxy:
            told = await proxy.until("serving")
            async with aiohttp.ClientSession(timeout=ONCE) as session:
                for sock in sockets:
                    if sock.family != socket.AF_UNIX:
                        host = "[::1]" if sock.family == socket.AF_INET6 else "127.0.0.1"
                        port = sock.getsockname()[1]
                        async with session.get(f"http://{host}:{port}/health") as answer:
                            assert answer.status == 200
                        # Names are looked at here as anywhere.
                        theirs = {"Host": "rebound.example"}
                        async with session.get(
                            f"http://{host}:{port}/health", headers=theirs
                        ) as answer:
                            assert answer.status == 403
            unix = aiohttp.UnixConnector(str(path))
            async with aiohttp.ClientSession(connector=unix, timeout=ONCE) as session:
                async with session.get("http://localhost/health") as answer:
                    assert answer.status == 200
            assert await stop(proxy) == 0

        assert told["url"] == url(sockets[0])
        (passed,) = [one for one in proxy.logged if one["event"] == "sockets_from_systemd"]
        assert passed["urls"][:2] == [url(sockets[0]), f"unix:{path}"]
        assert path.exists(), "it is not ours to remove"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.llama
async def test_a_restart_loses_no_connection(tmp_path: Path) -> None:
    """Clients go on asking while the proxy is restarted twice: each is answered, and none is sent
    away."""
    arguments, answers, ended = with_policies(tmp_path), [], asyncio.Event()
    body = {"model": "m", "prompt": "hi", "max_tokens": 2}

    async def ask(session: aiohttp.ClientSession, base: str, number: int) -> None:
        while not ended.is_set():
            asked = ("POST", "/v1/completions", body) if number == 0 else ("GET", "/api/tags", None)
            async with session.request(asked[0], base + asked[1], json=asked[2]) as answer:
                await answer.read()
                answers.append(answer.status)

    with bound(HERE) as sockets:
        base = url(sockets[0])
        async with alone() as fresh, aiohttp.ClientSession(timeout=ONCE) as kept:
            asking = [
                asyncio.create_task(ask(session, base, number))
                for session in (fresh, kept)
                for number in range(3)
            ]
            for last in (False, False, True):
                async with service(tmp_path, *arguments, sockets=sockets) as proxy:
                    await proxy.until("serving")
                    enough = len(answers) + 50
                    await until(partial(more_than, answers, enough), "clients are answered")
                    if last:  # they stop before it does
                        ended.set()
                        await asyncio.gather(*asking)
                    assert await stop(proxy) == 0
            assert not any(task.exception() for task in asking)

    assert set(answers) == {200}


@pytest.mark.llama
async def test_while_it_drains_newcomers_are_left_to_the_next(tmp_path: Path) -> None:
    """The old one shares the queue with the new one, and takes nobody from it."""
    arguments = with_policies(tmp_path)
    body = {"model": "m", "prompt": "hi", "max_tokens": 3000, "ignore_eos": True, "stream": True}
    with bound(HERE) as sockets:
        base = url(sockets[0])
        async with alone() as session, service(tmp_path, *arguments, sockets=sockets) as old:
            await old.until("serving")
            async with session.post(f"{base}/v1/completions", json=body) as answer:
                await answer.content.readany()
                old.process.send_signal(signal.SIGTERM)
                await old.until("draining")
                waiting = asyncio.create_task(_status(session, f"{base}/health"))
                async with service(tmp_path, *arguments, sockets=sockets) as new:
                    await new.until("serving")
                    assert await waiting == 200
                    assert old.process.returncode is None
                    rest = await answer.content.read()
                    assert await old.ended() == 0
                    assert await stop(new) == 0

    assert rest.endswith(b"data: [DONE]\n\n")


async def _status(session: aiohttp.ClientSession, address: str) -> int:
    async with session.get(address) as answer:
        return answer.status


async def test_who_was_let_in_before_the_end_is_answered(tmp_path: Path) -> None:
    """A connection that has not said yet what it wants."""
    with bound(HERE) as sockets:
        async with service(tmp_path, *with_policies(tmp_path), sockets=sockets) as proxy:
            await proxy.until("serving")
            reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
            # Connections are let in in turn, so this one is in once a later one has its answer.
            async with alone() as session:
                assert await _status(session, f"{url(sockets[0])}/health") == 200
            proxy.process.send_signal(signal.SIGTERM)
            await proxy.until("stopping")
            writer.write(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(HANG_S):
                said = await reader.read()
            writer.close()
            assert await proxy.ended() == 0

    head, _, rest = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in head
    assert json.loads(rest)["version"]


async def test_what_cannot_be_listened_on_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
        async with service(tmp_path, *with_policies(tmp_path), sockets=[wrong]) as proxy:
            assert proxy.process.stderr is not None
            said = (await proxy.process.stderr.read()).decode()
            assert await proxy.ended() == 2

    assert "descriptor 3 (number-0) is no socket that listens; a socket unit needs" in said
    assert "Traceback" not in said


def test_sockets_of_another_process_are_not_taken() -> None:
    assert passed_sockets({"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}) == []
    assert passed_sockets({"LISTEN_FDS": "1"}) == []
    assert passed_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}) == []


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="there is no systemd-socket-activate (apt install systemd)",
)
async def test_systemds_own_program_can_pass_them(tmp_path: Path) -> None:
    """It listens, and starts the proxy with the first client."""
    with socket.create_server(HERE) as free:
        port = free.getsockname()[1]
    path = tmp_path / "s"
    process = await asyncio.create_subprocess_exec(
        *("systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-l", str(path)),
        *("--fdname=one:two", f"--setenv=HOME={tmp_path}", f"--setenv=XDG_RUNTIME_DIR={tmp_path}"),
        *(sys.executable, "-m", "proxy.cli.main", "serve", *with_policies(tmp_path)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until(path.exists, "it listens")
        async with alone() as session:
            assert await _status(session, f"http://127.0.0.1:{port}/health") == 200
        unix = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=unix, timeout=ONCE) as session:
            assert await _status(session, "http://localhost/health") == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
