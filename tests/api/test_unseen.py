"""What stands in a body where nobody looked at first."""

import json

import aiohttp
import pytest

from tests.api.conftest import MODEL

pytestmark = pytest.mark.llama


@pytest.mark.parametrize("value", ["1e999", '"\\ud800"', "-1e999", '"\\udc00x"'])
@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/v1/chat/completions", '"messages": [{"content": [{"type": "image_url", "x": VALUE}]}]'),
        ("/v1/messages", '"messages": [{"content": [{"type": "image", "x": VALUE}]}]'),
        ("/v1/responses", '"input": [{"type": "input_image", "x": VALUE}]'),
        ("/v1/chat/completions", '"tools": [{"name": VALUE}], "tool_choice": {"name": "f"}'),
        ("/v1/chat/completions", '"tools": [], "tool_choice": {"name": VALUE}'),
    ],
)
async def test_is_a_bad_request_where_it_is_no_json(
    path: str, rest: str, value: str, client: aiohttp.ClientSession
) -> None:
    body = f'{{"model": "{MODEL}", {rest.replace("VALUE", value)}}}'
    async with client.post(path, data=body.encode()) as answer:
        # What goes on is llama-server's to refuse, and for some it says 500.
        assert answer.status == 400 or "X-Moe-Proxy-Backend" in answer.headers
        assert json.loads(await answer.read())["error"]["message"]


async def test_a_name_may_be_half_a_character(client: aiohttp.ClientSession) -> None:
    body = f'{{"model": "{MODEL}", "prompt": "x", "max_tokens": 1, "\\ud800": 1}}'
    async with client.post("/v1/completions", data=body.encode()) as answer:
        assert answer.status == 200


async def test_an_error_of_an_engine_says_whose_it_is(client: aiohttp.ClientSession) -> None:
    """Also where it is told in Ollama's shape, so that it is not taken for one of the proxy's."""
    body = {"model": MODEL, "prompt": "a " * 5000, "raw": True, "stream": False}
    async with client.post("/api/generate", json=body) as answer:
        assert answer.status == 400, await answer.text()
        assert answer.headers["X-Moe-Proxy-Backend"]
        assert isinstance((await answer.json())["error"], str)
