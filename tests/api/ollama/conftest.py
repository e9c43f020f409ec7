"""One proxy, as a process, for all tests of Ollama's API, and its clients."""

import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import pytest

from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import served

TINY = "tiny:4l"
LONG = "long"
EMBEDDER = "encoder"
CODER = "coder"
# Real chat templates, by the name of the model that has it here.
TEMPLATES = {
    "qwen3": "Qwen-Qwen3-0.6B",
    "gpt-oss": "openai-gpt-oss-120b",
    "llama3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "mistral": "mistralai-Mistral-Nemo-Instruct-2407",
}


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the proxy listens."""
    folder = tmp_path_factory.mktemp("ollama")
    with served(folder, policy_text(folder)) as url:
        yield url


def policy_text(folder: Path) -> str:
    # Texts are compared: other kernels, and prompts of which a part is cached, round otherwise.
    alike = {"cache_prompt": False}
    tiny = {"path": model(layers=4), "aliases": ["GPT-4o"], "repack": "off", "params": alike}
    # Its vocabulary has the tokens for filling in the middle.
    sizes = {"width": 64, "expert_width": 64, "heads": 2, "head_width": 32}
    coder = model(layers=2, vocab="starcoder", sizes=sizes)
    models: dict[str, dict[str, object]] = {
        TINY: tiny,
        LONG: {"path": model(layers=2, sizes={"context": 32768})},
        EMBEDDER: {"path": model("bert", layers=2)},
        CODER: {"path": coder},
    }
    # A grammar makes random weights call a tool.
    forced = {"tool_choice": "required", "parallel_tool_calls": False}
    for name, template in TEMPLATES.items():
        path = model(layers=2, template=template)
        params = alike | {"temperature": 0.0}
        models[name] = {"path": path, "params": params}
        models[f"{name}-forced"] = {"path": path, "params": params | forced}
    return policies(
        models,
        catalog={"state": folder / "state"},
        defaults={"ctx": 1024, "parallel": 2, "keep_alive": "10s"},
    )


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(url) as client:
        yield client


@pytest.fixture
async def http(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url) as session:
        yield session


@dataclass(frozen=True)
class Reply:
    content_type: str
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Raw:
    """Asks without a client library, and keeps the order of the fields."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(self._url + path)).json()

    def post(self, path: str, **body: Any) -> Reply:
        return self._ask(urllib.request.Request(self._url + path, json.dumps(body).encode()))

    def lines(self, path: str, **body: Any) -> list[dict[str, Any]]:
        answer = self.post(path, **body)
        assert answer.content_type == "application/x-ndjson"
        return [json.loads(line) for line in answer.text.splitlines()]

    def _ask(self, request: urllib.request.Request) -> Reply:
        with urllib.request.urlopen(request, timeout=HANG_S) as answer:
            return Reply(answer.headers["Content-Type"], answer.read().decode())


@pytest.fixture
def raw(url: str) -> Raw:
    return Raw(url)
