"""Names that are empty, and what can be no name: refused as Ollama does, in its words."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

REQUIRED, INVALID = "model is required", "invalid model name"
BAD = ("a b", "../x", "/", ":x", "x:", "a/b/c/d/e:1/2", "x" * 500, "na\u00efve", "\ufffd")
# By what each route says of an empty name, and of one that can be none.
ROUTES: list[tuple[str, str, tuple[int, str], str]] = [
    ("POST", "/api/chat", (400, REQUIRED), INVALID),
    ("POST", "/api/generate", (400, REQUIRED), INVALID),
    ("POST", "/api/show", (400, REQUIRED), INVALID),
    ("POST", "/api/embed", (400, REQUIRED), INVALID),
    ("POST", "/api/embeddings", (400, REQUIRED), INVALID),
    ("POST", "/api/pull", (400, INVALID), INVALID),
    ("POST", "/api/create", (400, INVALID), INVALID),
    ("POST", "/api/push", (400, REQUIRED), "moe-proxy does not push"),
    ("DELETE", "/api/delete", (400, REQUIRED), "is invalid"),
    ("POST", "/v1/chat/completions", (400, REQUIRED), INVALID),
    ("POST", "/v1/completions", (400, REQUIRED), INVALID),
    ("POST", "/v1/responses", (400, REQUIRED), INVALID),
    ("POST", "/v1/messages", (400, REQUIRED), INVALID),
    ("POST", "/v1/embeddings", (400, REQUIRED), INVALID),
    ("POST", "/tokenize", (400, REQUIRED), INVALID),
]


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxy(tmp_path, policies({}, catalog={"state": tmp_path / "state"})) as running:
        yield running


async def told(asked: Proxy, method: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
    async with asked.session.request(method, path, json=body) as answer:
        error = (await answer.json())["error"]
        return answer.status, error if isinstance(error, str) else error["message"]


@pytest.mark.parametrize(("method", "path", "empty", "bad"), ROUTES)
async def test_they_are_refused(
    method: str, path: str, empty: tuple[int, str], bad: str, asked: Proxy
) -> None:
    status, words = empty
    for name in ("", " "):
        said = await told(asked, method, path, {"model": name})
        assert said[0] == status, said
        assert said[1] == words
    for name in BAD:
        said = await told(asked, method, path, {"model": name})
        assert said[0] == 400, (name, said)
        assert bad in said[1]
        assert bad is not INVALID or said[1] == INVALID


@pytest.mark.parametrize("name", ["", "a b", "../x", 'a"b'])
async def test_copies_say_which_of_the_two(name: str, asked: Proxy) -> None:
    shown = name.replace('"', '\\"')
    body = {"source": name, "destination": "x"}
    assert await told(asked, "POST", "/api/copy", body) == (400, f'source "{shown}" is invalid')
    body = {"source": "x", "destination": name}
    words = f'destination "{shown}" is invalid'
    assert await told(asked, "POST", "/api/copy", body) == (400, words)
    assert await told(asked, "DELETE", "/api/delete", {"name": name or "a b"}) == (
        400,
        f'name "{shown or "a b"}" is invalid',
    )


async def test_a_name_that_could_be_one_is_not_found(asked: Proxy) -> None:
    for path in ("/api/chat", "/api/generate", "/api/show", "/v1/chat/completions"):
        assert (await told(asked, "POST", path, {"model": "never/was:1b"}))[0] == 404
    assert (await told(asked, "DELETE", "/api/delete", {"model": "was"}))[0] == 404
    assert (await told(asked, "POST", "/api/copy", {"source": "a", "destination": "b"}))[0] == 404
