"""A machine of a fleet: whoever does not bring the fleet's key gets nothing, whatever he asks."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.node.names import (
    HOSTS_HEADER,
    KEY_FILE_VARIABLE,
    KEY_HEADER,
    NODE_HEADER,
    NODE_VARIABLE,
    OWN_HEADER,
)
from tests.support.certificates import certificates, needs_openssl
from tests.support.fleet import KEY, key_file
from tests.support.guard import HANG_S
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.serving import serving

PATHS = (
    *("/", "/health", "/v1/health", "/ui", "/ui/", "/metrics", "/v1/models", "/api/tags"),
    *("/admin/state", "/admin/events", "/nothing", "/logs/stream", "/health/"),
)
POSTS = ("/v1/chat/completions", "/v1/messages", "/api/chat", "/api/pull", "/nothing")
ASK = {KEY_HEADER: KEY}
OWN = ASK | {OWN_HEADER: "1"}


@asynccontextmanager
async def node(folder: Path, **tables: dict[str, object]) -> AsyncIterator[Proxy]:
    env = {NODE_VARIABLE: "n1", KEY_FILE_VARIABLE: str(key_file(folder))}
    async with proxy(folder, policies({}, **tables), env=env) as one:
        yield one


async def test_a_stranger_gets_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as one:
        for headers in ({}, {KEY_HEADER: "wrong"}, {KEY_HEADER: "", OWN_HEADER: "1"}):
            for method, path in [
                *(("GET", path) for path in PATHS),
                *(("HEAD", path) for path in PATHS[:3]),
                *(("POST", path) for path in POSTS),
                *((method, "/v1/models") for method in ("OPTIONS", "PUT", "DELETE", "TRACE")),
            ]:
                async with one.session.request(method, path, headers=headers) as answer:
                    assert answer.status == 401, (method, path)
                    assert NODE_HEADER not in answer.headers
                    assert "X-Moe-Proxy-Pid" not in answer.headers


async def test_nor_does_a_page_of_one_before_it_asks(tmp_path: Path) -> None:
    preflight = {"Origin": "http://localhost", "Access-Control-Request-Method": "POST"}
    async with (
        node(tmp_path) as one,
        one.session.options("/v1/models", headers=preflight) as answer,
    ):
        assert answer.status == 401
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_it_is_told_in_each_protocols_words(tmp_path: Path) -> None:
    async with node(tmp_path) as one:
        told = {}
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            async with one.session.post(path, json={}) as answer:
                told[path] = await answer.json()

    assert told["/v1/chat/completions"]["error"]["type"] == "authentication_error"
    assert told["/v1/messages"]["error"]["type"] == "authentication_error"
    assert "fleet" in told["/api/chat"]["error"]


async def test_no_body_of_a_stranger_is_asked_for(tmp_path: Path) -> None:
    """He says that he waits to be told to go on, and is told to go."""
    async with node(tmp_path) as one, asyncio.timeout(HANG_S):
        host, _, port = one.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: 1000000\r\n\r\n"
        )
        assert b"401" in await reader.readline()
        writer.close()


async def test_a_client_of_a_front_is_looked_at_as_ever(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o600)
    async with node(tmp_path, server={"api_keys_file": keys}) as one:
        cases = [
            (ASK, 401),
            (ASK | {"Authorization": "Bearer secret"}, 200),
            (ASK | {"Authorization": "Bearer secret", "Origin": "https://evil.example"}, 403),
            (ASK | {"Authorization": "Bearer secret", "Host": "fleet.example"}, 403),
            (
                ASK | {"Authorization": "Bearer secret", "Host": "fleet.example:1"}
                | {HOSTS_HEADER: "here,fleet.example"},
                200,
            ),
        ]  # fmt: skip
        for headers, status in cases:
            async with one.session.get("/v1/models", headers=headers) as answer:
                assert answer.status == status, headers
                assert answer.headers[NODE_HEADER] == "n1"


async def test_the_fleet_itself_is_let_in_everywhere(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o600)
    async with node(tmp_path, server={"api_keys_file": keys}) as one:
        strange = OWN | {"Host": "fleet.example", "Origin": "https://evil.example"}
        for path in ("/admin/state", "/v1/models", "/health"):
            async with one.session.get(path, headers=strange) as answer:
                assert answer.status == 200


async def test_who_follows_hears_something_each_second(tmp_path: Path) -> None:
    """And goes on to, though others need an API key for that."""
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o600)
    settings: dict[str, object] = {"api_keys_file": keys}
    async with node(tmp_path, server=settings) as one, asyncio.timeout(HANG_S):
        for wrong in ("0", "x", "nan", "1000"):
            async with one.session.get(f"/admin/events?heartbeat={wrong}", headers=OWN) as answer:
                assert answer.status == 400
        async with one.session.get("/admin/events?heartbeat=1", headers=OWN) as answer:
            heard = b""
            while heard.count(b": still here\n\n") < 2:
                heard += await answer.content.readany()


async def test_a_machine_with_a_name_alone_says_it_to_all(tmp_path: Path) -> None:
    async with (
        proxy(tmp_path, policies({}), env={NODE_VARIABLE: "n1"}) as one,
        one.session.get("/health", headers={"Origin": "http://localhost"}) as answer,
    ):
        assert answer.headers[NODE_HEADER] == "n1"
        assert NODE_HEADER in answer.headers["Access-Control-Expose-Headers"]


async def test_it_answers_its_own_questions(tmp_path: Path) -> None:
    async with node(tmp_path) as one:
        assert await one.app.answers(HANG_S)


@pytest.mark.parametrize("mode", [0o644, None], ids=["everybodys", "none"])
async def test_without_a_secret_it_does_not_start(tmp_path: Path, mode: int | None) -> None:
    file = tmp_path / "k"
    if mode is not None:
        file.write_text(KEY)
        file.chmod(mode)
    (tmp_path / "p").mkdir()
    arguments = ("--port", "0", "--policies", str(tmp_path / "p"))
    async with serving(tmp_path, *arguments, env={KEY_FILE_VARIABLE: str(file)}) as child:
        assert await child.ended() == 2
        assert str(file) in "".join(child.lines)


@needs_openssl
async def test_with_certificates_it_speaks_tls_and_commands_find_it(tmp_path: Path) -> None:
    tls = certificates(tmp_path / "tls")
    env = {NODE_VARIABLE: "n1", KEY_FILE_VARIABLE: str(key_file(tmp_path)), **tls}
    (tmp_path / "p.toml").write_text(policies({}))
    arguments = ("--port", "0", "--policies", str(tmp_path / "p.toml"))
    async with serving(tmp_path, *arguments, env=env) as child:
        url = await child.url()
        assert url.startswith("https://")
        async with aiohttp.ClientSession() as stranger:
            with pytest.raises(aiohttp.ClientError):
                await stranger.get(url + "/health", ssl=False)
        # On that machine, whoever may read the key: without a word about the fleet.
        home = {"HOME": str(tmp_path), "MOE_PROXY_POLICIES": str(tmp_path / "p.toml")}
        for command in (("ps",), ("models", "--json")):
            found = await asyncio.to_thread(
                subprocess.run,
                (sys.executable, "-m", "proxy.cli.main", *command),
                env=os.environ | home,
                capture_output=True,
                text=True,
            )
            assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) in ([], {"models": []})
