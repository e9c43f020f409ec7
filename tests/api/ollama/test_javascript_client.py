"""The `ollama` package from npm against a running proxy."""

from pathlib import Path

import pytest

from tests.api.ollama.conftest import EMBEDDER, TINY
from tests.support.npm import packages, run

pytestmark = pytest.mark.llama
SCRIPT = Path(__file__).with_name("client.mjs")


def test_every_endpoint(url: str) -> None:
    folder = packages("ollama@0.6.4")
    seen = run(SCRIPT, folder, URL=url, TINY=TINY, EMBEDDER=EMBEDDER)

    assert seen["generate"]["streamed"] == seen["generate"]["whole"]
    assert seen["chat"]["streamed"] == seen["chat"]["whole"]
    assert seen["tool"] == [{"name": "get_weather", "arguments": {"city": seen["city"]}}]
    assert seen["city"] in ("Rome", "Oslo")
    assert seen["thinking"] == "I ask."
    assert seen["schema"]["sure"] in (True, False)
    assert seen["vectors"] == [256, 256]
    assert TINY in seen["list"]
    assert TINY in seen["ps"]
    assert seen["show"] == ["completion"]
    assert seen["version"]
    assert seen["missing"] == [404, "model 'nope' not found"]
    assert seen["refused"] == [400, 'option "temperature" must be of type float32']
    assert seen["aborted"] == "AbortError"
