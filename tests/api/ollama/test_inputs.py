"""What is embedded of a text depends on what is asked for, and on nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama
ENCODER, CHAT = "encoder", "chat"
LONG = "word " * 300
TOO_LONG = "the input length exceeds the context length"


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    tables = {
        ENCODER: {"path": model("bert", layers=2), "ctx": 64},
        CHAT: {"path": model(layers=2), "ctx": 512},
    }
    text = policies(tables, catalog={"state": tmp_path / "state"}, defaults={"parallel": 2})
    async with proxy(tmp_path, text) as asked:
        yield asked


async def embed(asked: Proxy, text: Any, ctx: int | None = None, **more: Any) -> Any:
    options = {"options": {"num_ctx": ctx}} if ctx else {}
    return await asked.post("/api/embed", {"model": ENCODER, "input": text, **options, **more})


def alike(one: Any, other: Any) -> bool:
    return bool(one["embeddings"] == [pytest.approx(v, abs=1e-4) for v in other["embeddings"]])


@pytest.mark.parametrize(("ctx", "tokens"), [(16, 16), (None, 64), (300, 300)])
async def test_a_text_is_cut_to_the_context_that_is_asked_for(
    asked: Proxy, ctx: int | None, tokens: int
) -> None:
    """Whatever is loaded; between the marks that the model puts around a text."""
    alone = await embed(asked, LONG, ctx)
    as_long = await embed(asked, "word " * (tokens - 2), ctx)
    await embed(asked, "x", ctx=512)
    among_others = await embed(asked, LONG, ctx)

    (backend,) = await asked.ready()
    assert backend["ctx"] == 512
    assert alone["prompt_eval_count"] == among_others["prompt_eval_count"] == tokens
    assert alike(alone, among_others)
    assert alike(alone, as_long)


@pytest.mark.parametrize("loaded", [None, 512])
async def test_a_text_that_is_not_to_be_cut_is_refused(asked: Proxy, loaded: int | None) -> None:
    if loaded:
        await embed(asked, "x", ctx=loaded)
    body = {"model": ENCODER, "truncate": False, "options": {"num_ctx": 16}}

    fits = await asked.post("/api/embed", {**body, "input": "word " * 14})
    refused = [
        await asked.post("/api/embed", {**body, "input": text}, status=400)
        for text in ("word " * 15, ["short", LONG])
    ]

    assert fits["prompt_eval_count"] == 16
    assert refused == [{"error": TOO_LONG}] * 2


async def test_one_text_of_several_is_cut(asked: Proxy) -> None:
    both = await embed(asked, [LONG, "short"], ctx=16)
    each = [await embed(asked, text, ctx=16) for text in (LONG, "short")]

    assert alike(both, {"embeddings": [answer["embeddings"][0] for answer in each]})
    assert both["prompt_eval_count"] == sum(answer["prompt_eval_count"] for answer in each)


async def test_the_older_route_cuts_too(asked: Proxy) -> None:
    body = {"model": ENCODER, "prompt": LONG, "options": {"num_ctx": 16}}

    old = await asked.post("/api/embeddings", body)

    assert alike({"embeddings": [old["embedding"]]}, await embed(asked, LONG, ctx=16))


@pytest.mark.parametrize("name", [ENCODER, CHAT])
async def test_an_empty_text_among_others(asked: Proxy, name: str) -> None:
    """Models with a token that begins a text have one for it, and others that of a blank."""
    answer = await asked.post("/api/embed", {"model": name, "input": ["a", ""]})
    single = await asked.post("/api/embed", {"model": name, "input": ["a"]})
    openai = await asked.post("/v1/embeddings", {"model": name, "input": ["a", ""]})
    alone = await asked.post("/v1/embeddings", {"model": name, "input": ""})

    assert len(answer["embeddings"]) == 2
    assert answer["embeddings"][0] == pytest.approx(single["embeddings"][0], abs=1e-4)
    both = [entry["embedding"] for entry in openai["data"]]
    assert alike(answer, {"embeddings": both})
    assert alone["data"][0]["embedding"] == pytest.approx(both[1], abs=1e-4)


async def test_a_text_that_the_model_cannot_take_whole(asked: Proxy) -> None:
    """By what it was trained for, whatever is asked for."""
    body = {"model": ENCODER, "input": "word " * 3000, "options": {"num_ctx": 9999}}

    answer = await asked.post("/api/embed", body)
    refused = await asked.post("/api/embed", {**body, "truncate": False}, status=400)

    assert answer["prompt_eval_count"] == 512
    assert refused == {"error": TOO_LONG}


async def test_a_chat_model_takes_less_than_its_context(asked: Proxy) -> None:
    """As llama-server has it, where an input may come in pieces."""
    body = {"model": CHAT, "input": "word " * 3000}

    answer = await asked.post("/api/embed", body)
    await asked.post("/api/embed", {**body, "options": {"num_ctx": 2048}})
    again = await asked.post("/api/embed", body)

    assert (answer["prompt_eval_count"], again["prompt_eval_count"]) == (511, 511)
    assert alike(answer, again)
