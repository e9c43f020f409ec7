"""The generated models in the real llama-server: they load, split, and answer the same again."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.catalog.gguf_reader import read_header
from proxy.demo.model import Qwen3Moe, chatml_template, demo_model, write_demo_model
from proxy.demo.vocabulary import WORDS
from tests.support.llama import Client, plain_server, rpc_server
from tests.support.models import MOE_SHAPES, model

ODD_TEXT = "Größe: 3 µm — 東京 🦀\n\ttab, <|im_start|> and the rain"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def device() -> AsyncIterator[str]:
    async with rpc_server() as address:
        yield address


async def chat(client: Client) -> str:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Tell me about the river."}],
        "temperature": 0,
        "max_tokens": 24,
    }
    answer = await client.post("/v1/chat/completions", body)
    return str(answer["choices"][0]["message"]["content"])


def on_device(device: str, layers_on_cpu: int) -> tuple[str, ...]:
    return (
        *("--rpc", device, "-ngl", "999", "--n-cpu-moe", str(layers_on_cpu), "--no-repack"),
        *("-c", "1024", "-np", "1", "-t", "1"),
    )


@pytest.mark.llama
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("shape", [*MOE_SHAPES, "qwen3"])
async def test_shape_answers_the_same_on_any_split(shape: str, device: str) -> None:
    texts = []
    for layers_on_cpu in (5, 0):
        arguments = on_device(device, layers_on_cpu)
        async with plain_server(model(shape), *arguments) as address, Client(address) as client:
            texts += [await chat(client), await chat(client)]

    assert len(set(texts)) == 1
    # Words of the vocabulary, and not one word over and over.
    words = texts[0].replace(",", " ").replace(".", " ").split()
    assert set(words) <= set(WORDS)
    assert len(set(words)) > 8


@pytest.mark.llama
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("quant", ["Q4_0", "Q4_K", "F16"])
async def test_types_of_experts(quant: str, device: str) -> None:
    path = model("qwen3moe", layers=3, quant=quant)
    types = {t.type for t in read_header(path).tensors if "_exps" in t.name}
    async with plain_server(path, *on_device(device, 1)) as address, Client(address) as client:
        assert await chat(client) == await chat(client)
    assert types == {quant}


@pytest.mark.llama
async def test_real_vocabulary_and_template() -> None:
    path = model("mixtral", layers=2, vocab="llama-spm", template="Qwen-Qwen2.5-7B-Instruct")
    async with plain_server(path, "-c", "512", "-t", "1") as address, Client(address) as client:
        text = await chat(client)

    assert text.isascii()
    assert text.strip()


@pytest.mark.llama
async def test_encoders_embed_and_rank() -> None:
    arguments = ("-c", "512", "-t", "1")
    async with (
        plain_server(model("bert", layers=2), "--embeddings", *arguments) as address,
        Client(address) as client,
    ):
        answer = await client.post("/v1/embeddings", {"input": ["a river", "a road"]})
        one, two = (item["embedding"] for item in answer["data"])
    async with (
        plain_server(model("bert-rerank", layers=2), "--reranking", *arguments) as address,
        Client(address) as client,
    ):
        documents = ["a river", "a long road"]
        answer = await client.post("/v1/rerank", {"query": "water", "documents": documents})
        scores = [item["relevance_score"] for item in answer["results"]]

    assert len(one) == len(two) == 256
    assert one != two
    assert len(set(scores)) == 2


@pytest.mark.llama
async def test_demo_model_takes_any_text(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    write_demo_model(path, Qwen3Moe(layers=1, width=64, expert_width=64), name="small demo")
    async with plain_server(path, "-c", "512", "-t", "1") as address, Client(address) as client:
        tokens = (await client.post("/tokenize", {"content": ODD_TEXT}))["tokens"]
        back = (await client.post("/detokenize", {"tokens": tokens}))["content"]
        shown = await client.post("/apply-template", {"messages": [user("hi")]})

    assert back == ODD_TEXT
    # Known words are one token each.
    assert len(tokens) < len(ODD_TEXT.encode())
    assert shown["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def test_demo_model_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.demo.model.Qwen3Moe", lambda: Qwen3Moe(layers=1))

    path = demo_model(tmp_path / "new")
    written = path.stat().st_mtime_ns

    assert demo_model(tmp_path / "new") == path
    assert path.stat().st_mtime_ns == written
    assert list(path.parent.iterdir()) == [path]
    header = read_header(path)
    assert header.is_moe
    assert header.metadata["tokenizer.chat_template"] == chatml_template()


def test_template_is_the_installed_one() -> None:
    # In a process of its own: the import loads llama.cpp's library.
    code = "from llama_cpp import llama_chat_format as f; print(f.CHATML_CHAT_TEMPLATE, end='')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert chatml_template() == shown.stdout.decode()
