"""Why a model could not be loaded, or a worker ended, in the error that a client sees. Real workers
and devices."""

import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.llama import program, rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

CHAT: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
PATHS = [
    ("/v1/chat/completions", ("error", "message")),
    ("/v1/messages", ("error", "message")),
    ("/v1/responses", ("error", "message")),
    ("/api/chat", ("error",)),
    ("/api/generate", ("error",)),
]
FRAME = re.compile(r"^#\d|0x[0-9a-f]{6}|\.cpp:\d", re.MULTILINE)
NOBODY = "127.0.0.1:1"


async def told(server: Proxy, path: str, where: tuple[str, ...]) -> str:
    asked = {"input": "hi"} if path == "/v1/responses" else {"prompt": "hi"}
    async with server.session.post(path, json=CHAT | asked) as answer:
        found = await answer.json()
        assert answer.status >= 500, found
    for key in where:
        found = found[key]
    return str(found)


@pytest.mark.parametrize(("path", "where"), PATHS)
async def test_a_device_that_is_not_there(
    tmp_path: Path, path: str, where: tuple[str, ...]
) -> None:
    table = {"path": model(layers=4), "ctx": 512, "rpc": [NOBODY]}
    async with proxy(tmp_path, policies({"m": table})) as server:
        message = await told(server, path, where)

    assert f"no connection to the RPC server {NOBODY}" in message.splitlines()[0]
    assert not FRAME.search(message), message


async def test_a_program_whose_device_is_not_there(tmp_path: Path) -> None:
    """Of engine "command", llama-server itself: a debugger would print what it was at."""
    command = [program("llama-server"), "-m", "{model}", "--port", "{port}", "--rpc", NOBODY]
    table = {"path": model(layers=4), "engine": "command", "command": command}
    async with proxy(tmp_path, policies({"m": table})) as server:
        message = await told(server, *PATHS[0])

    assert f"no connection to the RPC server {NOBODY}" in message.splitlines()[0]
    assert not FRAME.search(message), message


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_a_device_that_goes_in_the_middle_of_an_answer(tmp_path: Path, path: str) -> None:
    async with rpc_server() as rpc:
        table = {"path": model(layers=4), "ctx": 8192, "rpc": [rpc]}
        async with proxy(tmp_path, policies({"m": table})) as server:
            options = {"options": {"num_predict": 8000}} if path == "/api/chat" else {}
            body = CHAT | {"max_tokens": 8000, "ignore_eos": True, "stream": True} | options
            async with server.session.post(path, json=body) as answer:
                assert answer.status == 200, await answer.text()
                await answer.content.readline()
                os.kill(rpc.pid, signal.SIGKILL)
                rest = b""
                with suppress(aiohttp.ClientPayloadError):  # it ends without its end
                    async for chunk in answer.content.iter_any():
                        rest += chunk

    last = rest.decode().strip().splitlines()[-1]
    assert "the engine went away" in last
    assert "an RPC server (devices.rpc) went away" in last


async def test_a_file_that_is_cut_while_it_serves(tmp_path: Path) -> None:
    """Its worker dies of it, and so does the next one: the client is told of the file."""
    file = tmp_path / "m.gguf"
    file.write_bytes(model(layers=4).read_bytes())
    table = {"path": file, "ctx": 512, "repack": "off"}
    async with proxy(tmp_path, policies({"m": table})) as server:
        await server.post("/admin/models/m/load")
        os.truncate(file, 4096)

        message = await told(server, *PATHS[0])

    assert f"{file} is cut off or damaged: fetch it again" in message.splitlines()[0]


@pytest.mark.parametrize(("path", "where"), PATHS[:1] + PATHS[3:4])
async def test_a_worker_that_crashes_each_time_says_of_what(
    tmp_path: Path, path: str, where: tuple[str, ...]
) -> None:
    """The second death is told, with its cause, not only that the connection broke."""
    server_that_dies = (
        "import http.server, os, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "    def do_POST(self):\n"
        "        os.write(2, b'0.9.0.0 E CUDA error: an illegal address\\n')\n"
        "        os.abort()\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    command = ["python3", "-c", server_that_dies, "{port}"]
    table = {"path": model(layers=4), "engine": "command", "command": command}
    async with proxy(tmp_path, policies({"m": table})) as server:
        async with server.session.post(path, json=CHAT) as answer:
            found = await answer.json()
        (backend,) = (await server.get("/admin/state"))["backends"]
    for key in where:
        found = found[key]

    cause = "the GPU's driver (CUDA) reports: an illegal address"
    assert backend["last_error"].endswith(f"(signal 6): {cause}")
    assert cause in found
