"""A node of a fleet tells fronts, and nobody else, which of its errors are of its own state: then
another machine may do better."""

import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import (
    BadRequest,
    Busy,
    Conflict,
    EngineSaid,
    Hangs,
    Interrupted,
    ItemNotFound,
    KillsWorkers,
    LoadFailed,
    LoadRefused,
    ModelNotFound,
    NotFound,
    NotServing,
    PinnedInTheWay,
    PreviousNotFound,
    ProxyError,
    Suspected,
    TooManyRequests,
)
from proxy.node.names import (
    ASKED,
    KEY_FILE_VARIABLE,
    KEY_HEADER,
    NODE_VARIABLE,
    NOTHING_ASKED,
    REFUSES_HEADER,
)
from tests.support.fleet import KEY, key_file
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]
# A server that is well, and says this status to whoever asks something; 0: it dies.
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self, status=200):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        status = int(sys.argv[2])
        self.do_GET(status) if status else os._exit(1)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def models(folder: Path) -> str:
    (folder / "bad.gguf").write_bytes(b"GGUF but not really")
    usual = {"path": model(layers=2), "ctx": 512}
    found: dict[str, Any] = {"bad": {"path": folder / "bad.gguf", "ctx": 512}}
    for name, status in (("busy", "503"), ("limits", "429"), ("fails", "500"), ("dies", "0")):
        command = [sys.executable, "-c", SERVER, "{port}", status]
        found[name] = {**usual, "engine": "command", "command": command}
    return policies(found)


async def said(one: Proxy, name: str, **more: Any) -> tuple[int, str | None]:
    body = {"model": name, "messages": HELLO, **more}
    async with one.session.post(CHAT, json=body, headers={KEY_HEADER: KEY}) as answer:
        return answer.status, answer.headers.get(REFUSES_HEADER)


@pytest.mark.llama
async def test_a_front_is_told_what_is_the_nodes_own_and_whether_an_engine_was_asked(
    tmp_path: Path,
) -> None:
    env = {NODE_VARIABLE: "n1", KEY_FILE_VARIABLE: str(key_file(tmp_path))}
    async with proxy(tmp_path, models(tmp_path), env=env) as one:
        assert await said(one, "bad") == (500, NOTHING_ASKED)
        assert await said(one, "bad") == (503, NOTHING_ASKED)
        assert await said(one, "no-such") == (404, NOTHING_ASKED)
        assert await said(one, "busy") == (503, ASKED)
        assert await said(one, "limits") == (429, ASKED)
        assert await said(one, "fails") == (500, None)
        assert await said(one, "bad", messages="none") == (400, None)
        for _ in range(3):  # by whatever it is told that workers crash over it
            status, refuses = await said(one, "dies")
            assert status >= 400
            assert refuses is None, "the next machine's would too"


@pytest.mark.llama
async def test_nobody_else_is(tmp_path: Path) -> None:
    async with proxy(tmp_path, models(tmp_path)) as one:
        for name in ("bad", "no-such", "busy"):
            assert (await said(one, name))[1] is None


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (Busy(""), True),
        (LoadRefused(""), True),
        (LoadFailed(""), True),
        (Hangs(""), True),
        (PinnedInTheWay(""), True),
        (NotServing(""), True),  # it was not asked
        (NotServing("", asked=True), False),
        (EngineSaid("", status=503), True),
        (EngineSaid("", status=500), False),
        (ModelNotFound(""), True),
        (ItemNotFound(""), True),
        (PreviousNotFound(""), True),
        (Interrupted(""), False),  # it was at work on it
        (TooManyRequests(""), False),
        (BadRequest(""), False),
        (NotFound(""), False),
        (Conflict(""), False),
        (KillsWorkers(""), False),
        (Suspected(""), False),
    ],
)
def test_which_errors_are_of_a_machine_alone(error: ProxyError, elsewhere: bool) -> None:
    assert error.elsewhere is elsewhere
