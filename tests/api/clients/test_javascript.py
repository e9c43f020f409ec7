"""`openai` and Vercel's AI SDK from npm. Both ask for responses unless they are told otherwise."""

from pathlib import Path

import pytest

from tests.api.clients.conftest import TINY
from tests.support.npm import packages, run

pytestmark = pytest.mark.llama
HERE = Path(__file__).parent
CITIES = ("Rome", "Oslo")


def test_openai_node(url: str) -> None:
    folder = packages("openai@6.49.0", "zod@4.6.7")
    told = run(HERE / "openai.mjs", folder, URL=url, TINY=TINY, TOOLS="qwen3")

    assert told["text"]["streamed"] == told["text"]["whole"]
    assert told["text"]["numbers"] == list(range(len(told["text"]["numbers"])))
    assert told["parsed"]["city"] in CITIES
    assert told["call"]["name"] == "get_weather"
    assert told["call"]["parsed"]["city"] in CITIES
    assert told["call"]["snapshot"] == told["call"]["arguments"]
    assert told["chat"]["streamed"] == told["chat"]["whole"]
    assert told["refused"] == [
        *("BadRequestError", 400),
        *("context_length_exceeded", "invalid_request_error"),
    ]


def test_the_ai_sdk(url: str) -> None:
    folder = packages("ai@6.0.326", "@ai-sdk/openai@3.0.141", "zod@4.6.7")
    told = run(HERE / "ai_sdk.mjs", folder, URL=url, TINY=TINY, TOOLS="qwen3", THINKER="thinker")

    assert told["text"]["streamed"] == told["text"]["whole"]
    assert (told["text"]["finish"], told["text"]["usage"]) == ("length", 6)
    assert told["text"]["model"] == TINY
    assert told["turns"]["references"], "what it refers to is kept"
    assert told["turns"]["text"]
    assert told["object"]["city"] in CITIES
    assert told["partial"] == told["object"]
    assert told["tool"]["cities"][0] in CITIES
    assert told["tool"]["steps"][0] == "tool-calls"
    assert len(told["tool"]["steps"]) == 2
    assert told["thinking"]["reasoning"].strip() == "I think"
    assert told["thinking"]["text"] == "Rome"
    assert told["refused"] == [400, "context_length_exceeded"]
