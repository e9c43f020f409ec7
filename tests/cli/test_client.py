"""What a command sends to a proxy: where to, and with which key; and what it makes of half an
answer."""

import asyncio
import io
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cli.client import default_key, default_url
from proxy.cli.main import main
from proxy.node.names import FRONT_VARIABLE
from proxy.observe.record import claim
from tests.support.fleet import front, node


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of keys that the policies of this user name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    file = tmp_path / "keys.txt"
    (tmp_path / "policies/p.toml").write_text(f'server.api_keys_file = "{file}"')
    return file


def test_the_first_key_that_may_change_something_is_used(keys: Path) -> None:
    text = "\ufeff# ours\nguest use Guest\n  boss  admin Boss limit=9\nother\n"
    keys.write_text(text, encoding="utf-8")

    assert default_key({"HOME": "/"}) == "boss"
    assert default_key({"HOME": "/", "MOE_PROXY_API_KEY": "named"}) == "named"


def test_a_file_that_is_none_gives_no_key(keys: Path) -> None:
    assert default_key({"HOME": "/"}) is None

    os.mkfifo(keys)
    assert default_key({"HOME": "/"}) is None


def test_the_proxy_that_runs_is_found_wherever_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after `server.port` was edited, which takes its next start."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    state = tmp_path / "state"
    policies = f'catalog.state = "{state}"\nserver.port = 1234\n'
    (tmp_path / "policies/p.toml").write_text(policies)
    env = {"HOME": str(tmp_path)}
    assert default_url(env) == "http://127.0.0.1:1234"

    record = claim(state)
    assert default_url(env) == "http://127.0.0.1:1234", "it has said nothing yet"
    record.say("http://127.0.0.1:5678")
    assert default_url(env) == "http://127.0.0.1:5678"
    assert default_url({**env, "MOE_PROXY_URL": "http://there"}) == "http://there"
    record.close()

    assert default_url(env) == "http://127.0.0.1:1234"


async def test_a_command_asks_the_front_of_a_machine_that_is_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    state = tmp_path / "state"
    (tmp_path / "policies/p.toml").write_text(f'catalog.state = "{state}"\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    async with front(tmp_path) as one:
        env = {FRONT_VARIABLE: one.url}
        async with node(tmp_path, "attic", {}, env=env, catalog={"state": state}) as attic:
            await one.tell(attic.member)
            assert default_url({"HOME": str(tmp_path)}) == one.url
            assert await asyncio.to_thread(main, ["unload", "none", "--node", "attic"]) == 1
            assert "'none'" in capsys.readouterr().err  # the node's own words
            # Who says the node's own address is let in all the same.
            assert await asyncio.to_thread(main, ["ps", "--url", attic.url]) == 0
            named = ["unload", "none", "--node", "attic", "--url", attic.url]
            assert await asyncio.to_thread(main, named) == 1
            assert "say with --url or MOE_PROXY_URL where a front" in capsys.readouterr().err


def test_a_proxy_is_found_though_its_policies_are_broken_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on by the policies before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    env = {"HOME": str(tmp_path)}
    text = f'catalog.state = "{tmp_path / "state"}"\nserver.port = 1234\n'
    (tmp_path / "policies/p.toml").write_text(text + "server.drain = 'soon'\n")
    assert default_url(env) == "http://127.0.0.1:1234"

    record = claim(tmp_path / "state")
    record.say("http://127.0.0.1:5678")
    assert default_url(env) == "http://127.0.0.1:5678"
    record.close()

    (tmp_path / "policies/p.toml").write_text("[[")
    assert default_url(env) == "http://127.0.0.1:11434"


# --- a proxy that goes away ---

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
PIECE = b'{"message":{"content":"half"},"status":"half"}\n'
CHUNK = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
# What is left of an answer whose proxy is killed, by where that happens.
HALVES = {
    "between two chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK,
    "in a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"50\r\n{",
    "before its length": HEAD + b"Content-Length: 500\r\n\r\n" + PIECE,
}
COMMANDS = ["run m Hi", "logs", "logs -f m", "pull m", "load m", "ps", "ps --watch"]


@pytest.fixture(params=[*HALVES, "with a reset"])
def killed(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a proxy that is killed in the middle of each answer."""
    half = HALVES.get(request.param, HALVES["in a chunk"])

    class Killed(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += self.request.recv(65536)
            self.request.sendall(half)
            if request.param == "with a reset":
                linger = struct.pack("ii", 1, 0)
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Killed) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("command", COMMANDS)
def test_half_an_answer_is_told_as_one(
    killed: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())

    status = main([*command.split(), "--url", killed])

    assert status == 1
    assert f"the proxy at {killed} went away" in capsys.readouterr().err
