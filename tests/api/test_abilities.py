"""What a model is not asked for, since it cannot."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import archive
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOLS: dict[str, Any] = {
    "chat": {"tools": [{"type": "function", "function": FUNCTION}]},
    "responses": {"tools": [{"type": "function", **FUNCTION}]},
    "messages": {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/chat/completions": ("chat", {"messages": [USER]}),
    "/chat/completions": ("chat", {"messages": [USER]}),
    "/v1/chat/completions/input_tokens": ("chat", {"messages": [USER]}),
    "/v1/responses": ("responses", {"input": "hi"}),
    "/v1/messages": ("messages", {"messages": [USER]}),
    "/v1/messages/count_tokens": ("messages", {"messages": [USER]}),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    template = tmp_path / "own.jinja"
    template.write_text(archive.template("Qwen-Qwen2.5-7B-Instruct"))
    plain = model(layers=2)
    models: dict[str, dict[str, Any]] = {
        "plain": {"path": plain},
        "caller": {"path": model(layers=2, template="Qwen-Qwen3-0.6B")},
        "own": {"path": plain, "args": ["--chat-template-file", str(template)]},
        "encoder": {"path": model("bert", layers=2)},
    }
    async with proxy(tmp_path, policies(models, defaults={"ctx": 2048})) as server:
        yield server


async def asked(server: Proxy, path: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.post(server.url + path, json=body) as answer:
        return answer.status, await answer.json()


async def refused(server: Proxy, path: str, body: Any) -> str:
    """Why; nothing was loaded to find out."""
    status, told = await asked(server, path, body)
    assert status == 400
    assert server.app.services.pool.backends() == []
    return str(told["error"]["message"])


@pytest.mark.parametrize("path", PATHS)
async def test_tools_for_a_template_that_has_no_place_for_them(server: Proxy, path: str) -> None:
    protocol, body = PATHS[path]

    assert await refused(server, path, {"model": "plain", **body, **TOOLS[protocol]}) == (
        "plain does not support tools"
    )


@pytest.mark.llama
async def test_tools_where_there_is_a_place_or_none_are_there(server: Proxy) -> None:
    for name, few in (("plain", True), ("caller", False), ("own", False)):
        for path, (protocol, body) in PATHS.items():
            tools = {"tools": []} if few else TOOLS[protocol]
            length = {"max_output_tokens" if protocol == "responses" else "max_tokens": 1}
            status, told = await asked(server, path, {"model": name, **body, **tools, **length})
            assert status == 200, (name, path, told)


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_that_gives_vectors_does_not_chat(server: Proxy, path: str) -> None:
    assert await refused(server, path, {"model": "encoder", **PATHS[path][1]}) == (
        '"encoder" does not support chat'
    )


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
async def test_nor_write(server: Proxy, path: str) -> None:
    assert await refused(server, path, {"model": "encoder", "prompt": "hi"}) == (
        '"encoder" does not support generate'
    )


async def test_it_is_looked_up_once(server: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, entries = server.app.services.catalog, []
    header = catalog.header

    def counted(entry: Any) -> Any:
        entries.append(entry)
        return header(entry)

    monkeypatch.setattr(catalog, "header", counted)
    for _ in range(3):
        await refused(server, "/v1/messages", {"model": "encoder", "messages": [USER]})

    assert len(entries) == 1
