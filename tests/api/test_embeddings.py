"""`/v1/embeddings`, where it does more than llama-server."""

import base64
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.llama import program
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama
ENCODER = "encoder"
LONG = "word " * 2000


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    table = {"path": model("bert", layers=2), "parallel": 2}
    text = policies({ENCODER: table}, catalog={"state": tmp_path / "state"})
    async with proxy(tmp_path, text) as asked:
        yield asked


async def embed(asked: Proxy, given: Any, **more: Any) -> Any:
    return await asked.post("/v1/embeddings", {"model": ENCODER, "input": given, **more})


async def test_shorter_vectors(asked: Proxy) -> None:
    """They have the length 1 again, in either encoding."""
    whole = (await embed(asked, "hello"))["data"][0]["embedding"]
    short = await embed(asked, ["hello", "world"], dimensions=8)
    packed = await embed(asked, "hello", dimensions=8, encoding_format="base64")

    length = sum(x * x for x in whole[:8]) ** 0.5
    cut = [x / length for x in whole[:8]]
    assert [entry["object"] for entry in short["data"]] == ["embedding", "embedding"]
    assert short["data"][0]["embedding"] == pytest.approx(cut, abs=1e-3)
    (text,) = (entry["embedding"] for entry in packed["data"])
    assert struct.unpack("<8f", base64.b64decode(text)) == pytest.approx(cut, abs=1e-3)
    assert short["usage"]["prompt_tokens"] == 6


@pytest.mark.parametrize("dimensions", [0, -1, 256, 9999, None])
async def test_dimensions_that_change_nothing(asked: Proxy, dimensions: int | None) -> None:
    answer = await embed(asked, "hello", dimensions=dimensions)

    assert len(answer["data"][0]["embedding"]) == 256


@pytest.mark.parametrize("dimensions", ["8", 8.5, True, [8]])
async def test_dimensions_that_are_none(asked: Proxy, dimensions: Any) -> None:
    body = {"model": ENCODER, "input": "x", "dimensions": dimensions}

    answer = await asked.post("/v1/embeddings", body, status=400)

    assert answer["error"]["param"] == "dimensions"


async def test_an_input_that_is_too_long_is_cut(asked: Proxy) -> None:
    answer = await embed(asked, LONG)
    both = await embed(asked, ["hello", LONG])
    shorter = await embed(asked, LONG, options={"num_ctx": 16})
    as_long = await embed(asked, "word " * 14)

    assert answer["usage"]["prompt_tokens"] == 512, "what the model was trained for"
    assert len(both["data"]) == 2
    assert shorter["usage"]["prompt_tokens"] == 16
    (one,), (other,) = shorter["data"], as_long["data"]
    assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-3)


@pytest.mark.parametrize("given", [[7] * 600, [[7] * 600, [8, 9]]])
async def test_tokens_are_cut_too(asked: Proxy, given: Any) -> None:
    answer = await embed(asked, given)

    assert len(answer["data"]) == (1 if isinstance(given[0], int) else 2)
    assert answer["usage"]["prompt_tokens"] in (512, 514)


async def test_other_fields_are_passed_on(asked: Proxy) -> None:
    """null is as good as nothing, and llama-server's own fields are what they are to it."""
    raw = await embed(asked, "hello", dimensions=8, encoding_format=None, user=None)
    whole = await embed(asked, "hello", embd_normalize=-1)
    cut = await embed(asked, LONG, embd_normalize=-1)

    assert len(raw["data"][0]["embedding"]) == 8
    for answer in (whole, cut):
        assert sum(x * x for x in answer["data"][0]["embedding"]) > 2, "not of length 1"


async def test_answers_say_where_they_come_from(asked: Proxy) -> None:
    for more in ({}, {"dimensions": 8}):
        body = {"model": ENCODER, "input": "hello", **more}
        async with asked.session.post("/v1/embeddings", json=body) as answer:
            assert answer.headers["X-Moe-Proxy-Backend"] == "b1"
            assert (await answer.json())["model"] == ENCODER


async def test_what_is_no_input_is_refused(asked: Proxy) -> None:
    none: list[Any] = [None, [], {}, 7, True, ["a", None], [[1, 2.5]], [1.5], [{"text": "x"}]]
    for given in none:
        for dimensions in (None, 8):
            body = {"model": ENCODER, "input": given, "dimensions": dimensions}
            told = await asked.post("/v1/embeddings", body, status=400)
            assert told["error"]["code"] == "invalid_request_error"


@pytest.mark.parametrize("field", ['"input": [[1e999]]', '"input": "x", "dimensions": 1e999'])
async def test_a_number_that_is_none_is_refused(asked: Proxy, field: str) -> None:
    body = f'{{"model": "{ENCODER}", {field}}}'
    async with asked.session.post("/v1/embeddings", data=body) as answer:
        told = await answer.json()

    assert (answer.status, told["error"]["type"]) == (400, "invalid_request_error")


async def test_an_encoding_that_is_none_is_refused_alike(asked: Proxy) -> None:
    body = {"model": ENCODER, "input": "x", "encoding_format": "bogus"}

    told = await asked.post("/v1/embeddings", body, status=400)

    assert told == await asked.post("/v1/embeddings", {**body, "dimensions": 8}, status=400)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_what_cannot_be_ranked_is_no_500(asked: Proxy, path: str) -> None:
    body = {"model": ENCODER, "query": "a", "documents": [LONG]}
    told = await asked.post(path, body, status=400)
    assert told["error"]["code"] == "context_length_exceeded"
    assert told["error"]["n_ctx"] == 512

    told = await asked.post(path, body | {"documents": ["b"], "top_n": -1}, status=400)
    assert told["error"]["type"] == "invalid_request_error"


async def test_coheres_errors_have_a_word_for_a_code(asked: Proxy) -> None:
    body = {"model": ENCODER, "query": "a", "documents": []}
    told = await asked.post("/v2/rerank", body, status=400)

    assert told["error"]["code"] == "invalid_request_error"


async def test_another_server_does_it_its_own_way(tmp_path: Path) -> None:
    """It may know more of it, and have other names for its model."""
    argv = [str(program("llama-server")), "-m", "{model}", "--port", "{port}", "--embeddings"]
    table = {"path": model("bert", layers=2), "engine": "command", "command": argv}
    text = policies({ENCODER: table}, catalog={"state": tmp_path / "state"})
    async with proxy(tmp_path, text) as asked:
        answer = await embed(asked, "hello", dimensions=8)

    assert len(answer["data"][0]["embedding"]) == 256, "as llama-server has it"
