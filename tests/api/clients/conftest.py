"""One proxy, as a process, for all tests with the official clients of OpenAI and Anthropic."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from proxy.cli.client import Client
from proxy.engine.ports import free_port
from tests.support.extras import projector
from tests.support.guard import HANG_S
from tests.support.llama import program
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import served

TINY, ALIAS = "tiny:4l", "gpt-4o"
VARIANT = "tiny-fast"  # the same file with another split
ENCODER, EMBEDDING_ALIAS = "encoder", "text-embedding-3-small"
MEANS = "means"  # a chat model whose vectors are the mean of all tokens
SEER = "seer"  # with a projector
# Of each way in which llama-server writes the grammar of a call.
CALLERS = {
    "qwen3": "Qwen-Qwen3-0.6B",
    "qwen3-coder": "Qwen3-Coder",
    "llama3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "mistral": "mistralai-Mistral-Nemo-Instruct-2407",
    "gemma4": "google-gemma-4-31B-it",
    "lfm2": "LFM2-8B-A1B",
    "deepseek": "deepseek-ai-DeepSeek-V3.2",
    "gigachat": "GigaChat3-10B-A1.8B",
}
# It thinks, and random weights would not stop.
TEMPLATES = {
    **CALLERS,
    "gpt-oss": "openai-gpt-oss-120b",
    "thoughtful": "Qwen-QwQ-32B",
}
THOUGHT = "<think>\\nI think\\n</think>\\n\\nRome"
USER: Any = {"role": "user", "content": "hello"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="session")
def device() -> Iterator[str]:
    """What stands in for a GPU, for one worker: that of TINY and its variant."""
    port = free_port()
    argv = (program("ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", "1")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + HANG_S
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                assert process.poll() is None, "ggml-rpc-server ended"
                assert time.monotonic() < deadline, "ggml-rpc-server does not listen"
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture(scope="session")
def url(folder: Path, device: str) -> Iterator[str]:
    """Where the proxy listens."""
    with served(folder, policy_text(folder, device)) as url:
        yield url


def policy_text(folder: Path, device: str) -> str:
    # A projector goes with the only model of its folder.
    seer = folder / "seer" / "seer.gguf"
    seer.parent.mkdir()
    shutil.copyfile(model(layers=2), seer)
    projector(seer.with_name("mmproj.gguf"))
    # Texts are compared: other kernels, and prompts of which a part is cached, round otherwise.
    params = {"temperature": 0.0, "cache_prompt": False}
    models: dict[str, dict[str, object]] = {
        TINY: {
            **{"path": model(layers=4), "aliases": [ALIAS], "repack": "off"},
            **{"rpc": [device], "moe_cpu_layers": "full"},
        },
        VARIANT: {"base": TINY, "moe_cpu_layers": 1},
        ENCODER: {"path": model("bert", layers=2), "aliases": [EMBEDDING_ALIAS]},
        MEANS: {"path": model(layers=2), "args": ["--pooling", "mean"], "ctx": 2048},
        SEER: {"path": seer},
    }
    for name, template in TEMPLATES.items():
        # Tools are described at length, and this vocabulary has few words.
        models[name] = {"path": model(layers=2, template=template), "ctx": 6144}
    thinks = {"grammar": f'root ::= "{THOUGHT}"'}
    return policies(
        {name: {**table, "params": params} for name, table in models.items()}
        | {"thinker": {**models["qwen3"], "params": params | thinks}},
        catalog={"state": folder / "state"},
        defaults={"ctx": 1024, "parallel": 2},
    )


@pytest.fixture(scope="session")
def mine(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client. It asks once: what a test sees is the first answer."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", timeout=HANG_S, max_retries=0) as client:
        yield client


@pytest.fixture
async def mine_async(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="-", timeout=HANG_S, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="session")
def theirs(url: str) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client."""
    with anthropic.Anthropic(base_url=url, api_key="-", timeout=HANG_S, max_retries=0) as client:
        yield client


@pytest.fixture
async def theirs_async(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=url, api_key="-", timeout=HANG_S, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="session")
def llama(url: str) -> Iterator[ollama.Client]:
    """Ollama's client, which also makes models."""
    with ollama.Client(url, timeout=HANG_S) as client:
        yield client


@pytest.fixture(scope="session")
def operator(url: str) -> Client:
    """What the command line asks with."""
    return Client(url)
