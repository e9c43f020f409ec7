"""What is done once for each request: its model is found, its body is taken apart."""

import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.api import options
from proxy.dialect import body as body_module
from proxy.routing.resolver import Model, Resolver
from tests.api.conftest import MODEL
from tests.support.models import model
from tests.support.policies import policies as made

USER = {"role": "user", "content": "hi"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "a", "parameters": {}}}
CHOICE = {"type": "function", "function": {"name": "a"}}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [USER], "max_tokens": 1}),
    (
        "/v1/chat/completions",
        {"messages": [USER], "max_tokens": 1, "tools": [TOOL], "tool_choice": CHOICE},
    ),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 1, "moe_cpu_layers": 2}),
    ("/v1/messages", {"messages": [USER], "max_tokens": 1}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 1}),
    ("/tokenize", {"content": "hi"}),
    ("/api/chat", {"messages": [USER], "stream": False, "options": {"num_predict": 1}}),
    ("/api/generate", {"prompt": "hi", "stream": False, "options": {"num_predict": 1}}),
    ("/api/embed", {"input": "hi"}),
]


class Counting:
    """A decoder that counts."""

    def __init__(self, decoder: Any, calls: list[str]) -> None:
        self._decoder, self._calls = decoder, calls

    def decode(self, data: Any) -> Any:
        self._calls.append("decode")
        return self._decoder.decode(data)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A model whose template has a place for tools."""
    file = tmp_path / "policies.toml"
    path = model(layers=2, template="Qwen-Qwen3-0.6B")
    file.write_text(made({MODEL: {"path": path}}, defaults={"ctx": 1024}))
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    resolve = Resolver.resolve

    def counted(self: Resolver, name: str) -> Model:
        # The control loop asks too, whenever something was loaded.
        if sys._getframe(1).f_globals["__name__"].startswith("proxy.api."):
            calls.append("resolve")
        return resolve(self, name)

    monkeypatch.setattr(Resolver, "resolve", counted)
    for module in (options, body_module):
        monkeypatch.setattr(module, "_decoder", Counting(module._decoder, calls))
    return calls


@pytest.mark.llama
async def test_each_request(client: aiohttp.ClientSession, calls: list[str]) -> None:
    async def ask(path: str, body: dict[str, Any]) -> None:
        async with client.post(path, json={"model": MODEL, **body}) as answer:
            assert answer.status == 200, await answer.text()

    for path, body in REQUESTS:
        await ask(path, body)  # a load asks for the model, too
    for path, body in REQUESTS:
        calls.clear()
        await ask(path, body)

        assert calls.count("resolve") == 1, (path, calls)
        assert calls.count("decode") <= 2, (path, calls)
        if not path.startswith("/api/"):
            assert "decode" in calls, path
