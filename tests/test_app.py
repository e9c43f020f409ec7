"""The proxy as a process: how it starts, why it does not, and how it ends."""

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

import aiohttp
import pytest
import structlog

from proxy.startup import StartupError, listening_sockets
from tests.support.guard import HANG_S
from tests.support.serving import serving, with_policies

pytestmark = pytest.mark.llama


async def test_bad_policies_are_told_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("[server]\nprot = 1\n")
    async with serving(tmp_path, "--policies", str(tmp_path / "p.toml")) as proxy:
        assert await proxy.ended() == 2

    errors = "".join(proxy.lines)
    assert "p.toml:2: server.prot" in errors
    assert "Traceback" not in errors


async def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with serving(tmp_path, "--port", port) as proxy:
            assert await proxy.ended() == 2

    errors = "".join(proxy.lines)
    assert f"cannot listen on 127.0.0.1:{port}" in errors
    assert "another program uses it" in errors
    assert "--port" in errors
    assert "Traceback" not in errors


async def test_an_address_that_a_proxy_of_ours_has_is_told_so(tmp_path: Path) -> None:
    """One with another state folder, such as the machine's service; any address of it."""
    (tmp_path / "other").mkdir()
    async with serving(tmp_path, *with_policies(tmp_path)) as first:
        url = await first.url()
        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "0.0.0.0"):
            arguments = ("--port", port, "--host", host)
            async with serving(tmp_path / "other", *arguments) as second:
                assert await second.ended() == 2
            (error,) = [line for line in second.lines if "cannot listen" in line]
            assert f"moe-proxy already runs there (process {first.pid}, at {url})" in error
            assert "another program" not in error


async def test_what_runs_is_finished_before_the_end(tmp_path: Path) -> None:
    """SIGTERM while an answer streams: it comes to its end, then every process is gone."""
    async with serving(tmp_path, *with_policies(tmp_path)) as proxy:
        url = await proxy.url()
        body = {"model": "m", "prompt": "hi", "max_tokens": 1500, "ignore_eos": True}
        async with aiohttp.ClientSession(
            url, connector=aiohttp.TCPConnector(force_close=True)
        ) as session:
            streaming = body | {"stream": True}
            async with session.post("/v1/completions", json=streaming) as answer:
                await answer.content.readany()
                async with session.get("/admin/state") as looked:
                    state = await looked.json()
                proxy.process.send_signal(signal.SIGTERM)
                await proxy.logged("draining")
                async with session.post("/v1/completions", json=body) as refused:
                    assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
                async with session.get("/health") as health:
                    assert (health.status, await health.json()) == (503, {"status": "draining"})
                rest = await answer.content.read()
        assert await proxy.ended() == 0
        assert not proxy.folders()

    assert rest.endswith(b"data: [DONE]\n\n")
    assert state["backends"][0]["in_flight"] == 1
    assert not Path(f"/proc/{state['backends'][0]['pid']}").exists()


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, *with_policies(tmp_path)) as proxy:
        url = await proxy.url()
        body = {"model": "m", "prompt": "hi", "max_tokens": 4000, "ignore_eos": True}
        async with aiohttp.ClientSession(url) as session:
            streaming = body | {"stream": True}
            async with session.post("/v1/completions", json=streaming) as answer:
                await answer.content.readany()
                proxy.process.send_signal(signal.SIGINT)
                await proxy.logged("draining")
                proxy.process.send_signal(signal.SIGINT)
                killed = await proxy.logged("child_gone")
                with pytest.raises(aiohttp.ClientError):
                    await answer.content.read()
        assert await proxy.ended() == 0
        assert not proxy.folders()

    assert killed["status"] == -signal.SIGKILL, "it is not asked politely"


async def test_people_are_told_where_it_is_and_what_to_do_next(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ("--port", "0", "--policies", str(tmp_path / "empty"), "--log-format", "console")
    async with serving(tmp_path, *arguments) as proxy:
        assert proxy.process.stderr is not None
        said = ""
        async with asyncio.timeout(HANG_S):
            while "Ctrl-C" not in said:
                said += (await proxy.process.stderr.readline()).decode()
        proxy.process.send_signal(signal.SIGINT)
        assert await proxy.ended() == 0

    assert "empty: there is no *.toml in this folder, so the built-in defaults are used" in said
    assert "moe-proxy 0" in said
    assert " serves at http://127.0.0.1:" in said
    assert "  no models yet: " in said


async def test_every_address_answers_whichever_family_a_client_takes(tmp_path: Path) -> None:
    arguments = with_policies(tmp_path)
    answering = []
    async with serving(tmp_path, *arguments, env={"OLLAMA_HOST": "[::]:0"}) as proxy:
        url = await proxy.url()
        port = url.rpartition(":")[2]
        async with aiohttp.ClientSession() as session:
            for host in ("127.0.0.1", "[::1]"):
                with contextlib.suppress(aiohttp.ClientConnectorError):  # there may be no IPv6
                    async with session.get(f"http://{host}:{port}/api/version") as answer:
                        answering.append((host, answer.status))

    assert ("127.0.0.1", 200) in answering
    assert (":" in url.removeprefix("http://").rpartition(":")[0]) == (("[::1]", 200) in answering)


async def test_several_addresses_answer_and_their_names_are_known(tmp_path: Path) -> None:
    arguments = with_policies(tmp_path, server={"host": ["127.0.0.1", "127.0.0.2"]})
    async with serving(tmp_path, *arguments) as proxy:
        url = await proxy.url()
        assert url.startswith("http://127.0.0.1:")
        async with aiohttp.ClientSession() as session:
            for host in ("127.0.0.1", "127.0.0.2"):
                async with session.get(url.replace("127.0.0.1", host) + "/health") as answer:
                    assert answer.status == 200


def test_who_may_come_from_elsewhere_without_a_key_is_told() -> None:
    with structlog.testing.capture_logs() as logged:
        for host, keys in (("127.0.0.1", False), ("0.0.0.0", True)):
            for sock in listening_sockets(host, 0, keys=keys):
                sock.close()
        with contextlib.suppress(StartupError):  # there may be no IPv6
            for sock in listening_sockets("::1", 0, keys=False):
                sock.close()
    assert not logged

    with structlog.testing.capture_logs() as logged:
        for sock in listening_sockets("0.0.0.0", 0, keys=False):
            sock.close()
    assert [line["event"] for line in logged] == ["open_to_the_network"]
