"""Each request has an id, which its answer and its log line have too, and the line says what it
was.
"""

import asyncio
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from proxy.api.request_log import only_looks
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import Served, served

pytestmark = pytest.mark.llama

ID = "X-Request-Id"
MESSAGES = [{"role": "user", "content": "hi"}]
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 3},
    "/v1/completions": {"prompt": "hi", "max_tokens": 3},
    "/v1/responses": {"input": "hi", "max_output_tokens": 3},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 3},
    "/completion": {"prompt": "hi", "n_predict": 3},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 3}},
    "/api/generate": {"prompt": "hi", "options": {"num_predict": 3}},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("request-log")
    keys = folder / "keys.txt"
    keys.write_text("secret admin\n")
    keys.chmod(0o600)
    tiny = {"path": model(layers=2), "ctx": 1024}
    text = policies({"tiny": tiny}, server={"api_keys_file": keys}, defaults={"parallel": 1})
    with served(folder, text) as url:
        yield url


async def ask(url: str, method: str, path: str, **how: Any) -> tuple[int, str]:
    """The status of an answer, and its id."""
    headers = {"Authorization": "Bearer secret"} | how.pop("headers", {})
    async with (
        aiohttp.ClientSession(url) as session,
        session.request(method, path, headers=headers, **how) as answer,
    ):
        await answer.read()
        return answer.status, answer.headers[ID]


async def line_of(url: Served, request_id: str) -> dict[str, Any]:
    """The only line that tells of the end of a request, once it is there."""

    def found() -> list[dict[str, Any]]:
        return [line for line in url.said("request") if line["request_id"] == request_id]

    (line,) = await until(found, f"a line of {request_id}")
    return dict(line)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("path", ASKS)
async def test_a_line_says_what_a_request_was(url: Served, path: str, streams: bool) -> None:
    mine = f"mine{path}-{streams}".replace("/", ".")

    status, given = await ask(
        url,
        "POST",
        path,
        json=ASKS[path] | {"model": "tiny", "stream": streams},
        headers={ID: mine},
    )

    assert (status, given) == (200, mine)
    line = await line_of(url, mine)
    assert (line["path"], line["status"], line["model"]) == (path, 200, "tiny")
    assert (line["tokens"], line["moe_cpu_layers"], line["backend"]) == (3, 2, "b1")
    assert line["prompt_tokens"] > 0
    assert line["duration_s"] >= line["first_byte_s"] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "hi"}),
        ("/api/embed", {"input": "hi"}),
        ("/api/embeddings", {"prompt": "hi"}),
    ],
)
async def test_so_does_that_of_one_that_gets_vectors(url: Served, path: str, body: Any) -> None:
    _, given = await ask(url, "POST", path, json=body | {"model": "tiny"})

    line = await line_of(url, given)
    assert (line["model"], line["moe_cpu_layers"]) == ("tiny", 2)
    assert line["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("method", "path", "how", "status"),
    [
        ("POST", "/v1/chat/completions", {"data": b"no json"}, 400),
        ("POST", "/v1/messages", {"json": {"model": "none"}}, 404),
        ("POST", "/api/chat", {"json": {"model": "none"}}, 404),
        (
            "POST",
            "/v1/completions",
            {"json": {"model": "tiny", "grammar": "no"}},
            400,
        ),
        ("GET", "/nothing/here", {}, 404),
        ("PATCH", "/v1/completions", {}, 405),
        ("GET", "/v1/models", {"headers": {"Authorization": "Bearer no"}}, 401),
        ("GET", "/v1/models", {"headers": {"Origin": "https://stranger.example"}}, 403),
        ("GET", "/v1/models", {}, 200),
        ("GET", "/ui/", {}, 200),
        ("GET", "/metrics", {}, 200),
    ],
)
async def test_every_answer_has_an_id(
    url: Served, method: str, path: str, how: Any, status: int
) -> None:
    first = await ask(url, method, path, **how)
    second = await ask(url, method, path, **how)

    assert (first[0], second[0]) == (status, status)
    assert first[1] != second[1]
    if status >= 400:
        assert (await line_of(url, first[1]))["status"] == status


async def test_an_id_that_is_none_is_not_taken(url: Served) -> None:
    _, given = await ask(url, "GET", "/api/version", headers={ID: 'a "b"'})

    assert given.isalnum()


async def test_what_is_no_http_has_one_too(url: Served) -> None:
    port = urllib.parse.urlsplit(url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"no http\r\n\r\n")
    answer = await reader.read()
    writer.close()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert json.loads(body)["error"]
    (given,) = [line[14:].decode() for line in head.splitlines() if line[:13] == ID.encode() + b":"]
    lines = await until(lambda: url.said("malformed_request"), "a line of it")
    assert [line["request_id"] for line in lines] == [given]


async def test_what_passes_through_has_just_one(url: Served) -> None:
    """Whatever the engine says: it may be another proxy."""
    body = ASKS["/v1/completions"] | {"model": "tiny", "stream": True}
    async with (
        aiohttp.ClientSession(url, headers={"x-api-key": "secret"}) as session,
        session.post("/upstream/tiny/v1/completions", json=body, headers={ID: "up"}) as answer,
    ):
        assert answer.headers.getall(ID) == ["up"]


def test_workers_are_not_heard_where_nothing_is_wrong(url: Served) -> None:
    assert {line["level"] for line in url.said("child_says")} <= {"warning"}


@pytest.mark.parametrize(
    ("method", "path", "status", "quiet"),
    [
        ("GET", "/admin/events", 200, True),
        ("GET", "/admin/events", 499, True),  # a page that was closed
        ("GET", "/v1/models/none", 404, False),
        ("POST", "/admin/policies/mine.toml/check", 200, True),  # at each key in the editor
        ("PUT", "/admin/policies/mine.toml", 200, False),
        ("POST", "/v1/chat/completions", 499, False),
    ],
)
def test_what_only_looks_is_told_to_who_debugs(
    method: str, path: str, status: int, quiet: bool
) -> None:
    assert only_looks(method, path, status) is quiet
