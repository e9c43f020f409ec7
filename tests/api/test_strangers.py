"""Who is refused by a whole proxy, over real sockets."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.app import Running
from tests.api.conftest import MODEL
from tests.support.guard import HANG_S, until
from tests.support.policies import policies as made
from tests.support.served import served

EVIL = "https://evil.test"
APP = "http://localhost:3000"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


async def ask(
    client: aiohttp.ClientSession, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, Any]:
    """Status, headers and body, as JSON where it is that."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.request(method, path, data=body, headers=names) as answer:
        text = await answer.text()
        return answer.status, answer.headers, json.loads(text) if text[:1] == "{" else text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/unload"),
        ("GET", "/ui/"),
        ("GET", "/nothing/here"),
        ("GET", "/v1/chat/completions"),
        ("OPTIONS", "/health"),
        ("POST", "/admin/models/x/load"),
        ("PUT", "/admin/policies/policies.toml"),
        ("DELETE", "/api/delete"),
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test:11434"},
        {"Host": "evil.test", "Origin": "http://evil.test", "Sec_Fetch_Site": "same-origin"},
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": EVIL, "Access_Control_Request_Method": "POST"},
    ],
    ids=["host", "rebound", "origin", "null", "preflight"],
)
async def test_strangers_are_refused_everywhere(
    client: aiohttp.ClientSession, method: str, path: str, headers: dict[str, str]
) -> None:
    status, answered, body = await ask(client, method, path, b"", **headers)

    assert status == 403
    assert "Access-Control-Allow-Origin" not in answered
    key = "server.hosts" if "Host" in headers else "server.origins"
    error = body["error"]
    assert key in (error if path.startswith("/api/") else error["message"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/unload", None),
        ("GET", f"/props?model={MODEL}", None),
        ("GET", f"/upstream/{MODEL}/props", None),
        ("GET", "/api/tags", None),
        ("POST", f"/admin/models/{MODEL}/load", b"x"),
    ],
)
async def test_a_page_of_another_site_cannot_hide_its_origin(
    proxy: Running, client: aiohttp.ClientSession, method: str, path: str, body: bytes | None
) -> None:
    headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    status, _, _ = await ask(client, method, path, body, **headers)

    assert status == 403
    assert proxy.services.pool.backends() == []


async def test_errors_have_the_shape_of_each_protocol(client: aiohttp.ClientSession) -> None:
    openai = (await ask(client, "POST", "/v1/chat/completions", b"", Origin=EVIL))[2]
    anthropic = (await ask(client, "POST", "/v1/messages", b"", Origin=EVIL))[2]
    ollama = (await ask(client, "POST", "/api/chat", b"", Origin=EVIL))[2]

    assert (openai["error"]["type"], openai["error"]["code"]) == ("permission_error", "forbidden")
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "permission_error")
    assert isinstance(ollama["error"], str)


async def test_a_link_may_open_the_front_page(client: aiohttp.ClientSession) -> None:
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}

    assert (await ask(client, "GET", "/", **link, Sec_Fetch_Dest="document"))[0] == 200
    assert (await ask(client, "GET", "/", **link, Sec_Fetch_Dest="iframe"))[0] == 403
    assert (await ask(client, "GET", "/unload", **link, Sec_Fetch_Dest="document"))[0] == 403


async def test_edits_of_the_policies_count_at_once(
    proxy: Running, client: aiohttp.ClientSession, policies: Path
) -> None:
    assert (await ask(client, "GET", "/health", Host="llm.test"))[0] == 403
    assert (await ask(client, "GET", "/health", Origin=EVIL))[0] == 403

    allowed = f'[server]\nhosts = ["llm.test"]\norigins = ["{EVIL}"]\n'
    policies.write_text(policies.read_text().replace("[server]\n", allowed))
    await until(lambda: proxy.services.policies.generation == 2, "it holds")

    assert (await ask(client, "GET", "/health", Host="llm.test"))[0] == 200
    assert (await ask(client, "GET", "/health", Origin=EVIL))[0] == 200
    assert (await ask(client, "GET", "/health", Origin="http://llm.test", Host="llm.test"))[
        0
    ] == 200


async def test_another_name_of_this_machine_counts_once_it_is_known(
    proxy: Running, client: aiohttp.ClientSession
) -> None:
    strangers = proxy.services.strangers
    assert (await ask(client, "GET", "/health", Host="newname"))[0] == 403

    strangers.know({"newname"})

    assert (await ask(client, "GET", "/health", Host="newname"))[0] == 200


# --- those who are allowed ---


async def test_a_preflight_needs_no_key_and_the_request_does(
    proxy: Running, client: aiohttp.ClientSession, policies: Path
) -> None:
    (policies.parent / "keys.txt").write_text("ours\n")
    keys = '[server]\napi_keys_file = "keys.txt"\n'
    policies.write_text(policies.read_text().replace("[server]\n", keys))
    await until(lambda: proxy.services.policies.generation == 2, "it holds")

    status, headers, _ = await ask(
        client,
        "OPTIONS",
        "/v1/chat/completions",
        Origin=APP,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization,content-type",
        Access_Control_Request_Private_Network="true",
    )
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == APP
    assert headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert headers["Access-Control-Allow-Private-Network"] == "true"
    assert "Origin" in ", ".join(headers.getall("Vary"))

    status, headers, _ = await ask(client, "POST", "/v1/chat/completions", b"", Origin=APP)
    assert (status, headers["Access-Control-Allow-Origin"]) == (401, APP)


async def test_options_without_an_origin_are_no_preflight(client: aiohttp.ClientSession) -> None:
    status, headers, _ = await ask(
        client, "OPTIONS", "/v1/chat/completions", Access_Control_Request_Method="POST"
    )

    assert status == 405
    assert "Access-Control-Allow-Methods" not in headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/nothing/here", "/health"])
async def test_every_answer_says_who_may_have_it(client: aiohttp.ClientSession, path: str) -> None:
    """Errors too: without it a page sees that something failed, and not what."""
    with_origin, without = [
        (await ask(client, "GET", path, **headers))[1] for headers in ({"Origin": APP}, {})
    ]

    assert with_origin["Access-Control-Allow-Origin"] == APP
    assert "Retry-After" in with_origin["Access-Control-Expose-Headers"]
    assert "Origin" in without["Vary"]
    assert "Access-Control-Allow-Origin" not in without


@pytest.mark.llama
@pytest.mark.parametrize("stream", [True, False])
async def test_engines_do_not_say_whom_browsers_may_answer(
    client: aiohttp.ClientSession, stream: bool
) -> None:
    """llama-server would allow the origin that it is asked by."""
    body = json.dumps({**CHAT, "stream": stream}).encode()

    status, headers, _ = await ask(client, "POST", "/v1/chat/completions", body, Origin=APP)
    assert status == 200
    assert headers.getall("Access-Control-Allow-Origin") == [APP]
    assert "X-Moe-Proxy-Backend" in headers["Access-Control-Expose-Headers"]
    assert "X-Moe-Proxy-Backend" in headers

    _, headers, _ = await ask(client, "POST", "/v1/chat/completions", body)
    assert [name for name in headers if name.startswith("Access-Control")] == []


# --- odd headers ---


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "keys.txt").write_text("ours\n")
    with served(folder, made({}, server={"api_keys_file": "keys.txt"})) as url:
        parts = urlsplit(url)
        yield parts.hostname or "", parts.port or 0


def status_of(address: tuple[str, int], target: bytes, *headers: bytes) -> int:
    """The status of a bare request; without a Host, which HTTP/1.1 wants, of HTTP/1.0."""
    version = b"1" if any(header.startswith(b"Host:") for header in headers) else b"0"
    with socket.create_connection(address, timeout=HANG_S) as connection:
        head = b"\r\n".join(
            (b"GET " + target + b" HTTP/1." + version, *headers, b"Connection: close")
        )
        connection.sendall(head + b"\r\n\r\n")
        with connection.makefile("rb") as stream:
            return int(stream.readline().split()[1])


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (b"/health", [], 200),
        (b"/health", [b"Host:"], 200),
        (b"/health", [b"Host: localhost"], 200),
        (b"/health", [b"Host: LOCALHOST.:1"], 200),
        (b"/health", [b"Host: [::1]:1"], 200),
        (b"/health", [b"Host: evil.test"], 403),
        (b"/health", [b"Host: evil.test@localhost"], 403),
        (b"/health", [b"Host: \xff"], 403),
        (b"/%ff", [b"Host: evil.test"], 403),
        (b"/%ff", [b"Host: localhost", b"Authorization: Bearer ours"], 404),
        (b"/v1/models", [b"Host: localhost", b"Authorization: Bearer \xff"], 401),
        (b"/v1/models", [b"Host: localhost", b"Authorization: Basic \xff"], 401),
        (b"/v1/models", [b"Host: localhost", b"x-api-key: \xff"], 401),
        (b"http://localhost/health", [b"Host: localhost"], 200),
        (b"http://localhost:1/health", [], 200),
        (b"http://evil.test/health", [b"Host: localhost"], 403),
        (b"http://evil.test/health", [], 403),
        (b"http://localhost/health", [b"Host: evil.test"], 403),
        (
            b"/admin/events?after=" + b"9" * 5000,
            [b"Host: localhost", b"x-api-key: ours"],
            400,
        ),
    ],
)
def test_odd_requests(
    address: tuple[str, int], target: bytes, headers: list[bytes], status: int
) -> None:
    assert status_of(address, target, *headers) == status


def test_two_hosts_are_none(address: tuple[str, int]) -> None:
    both = (b"Host: localhost", b"Host: evil.test")

    assert status_of(address, b"/health", *both) in (400, 403)
    assert status_of(address, b"/health", *reversed(both)) in (400, 403)


HEADER = st.sampled_from(
    b"Host Origin Sec-Fetch-Site Sec-Fetch-Mode Referer User-Agent Authorization x-api-key "
    b"Access-Control-Request-Method Access-Control-Request-Headers X-Request-Id Last-Event-ID "
    b"Access-Control-Request-Private-Network".split()
)
WORD = st.sampled_from(
    b"localhost evil.test http:// 127.0.0.1 :1 [::1] null * @ cross-site Mozilla/5.0 Bearer Basic "
    b"ours , %".split()
)
# Anything but a line's end.
BYTES = st.binary(max_size=8).map(
    lambda data: bytes(byte for byte in data if byte not in b"\r\n\0")
)
VALUE = st.lists(WORD | BYTES | st.sampled_from((b" ", b"9" * 5000)), max_size=4).map(b"".join)
PAIR = st.tuples(HEADER, VALUE) | st.just((b"x-api-key", b"ours"))
TARGET = st.sampled_from((b"/", b"/health", b"/v1/models", b"/unload", b"/admin/events?after=x"))
HOST = st.sampled_from((b"", b"http://localhost", b"http://evil.test", b"http://[::1]:1"))


@given(st.tuples(HOST, TARGET).map(b"".join), st.lists(PAIR, max_size=5))
def test_whatever_headers_say_nothing_breaks(
    address: tuple[str, int], target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    assert status_of(address, target, *(b": ".join(pair) for pair in headers)) < 500
