"""What is refused, as each client's own exceptions."""

import asyncio
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.api.clients.conftest import TINY, USER
from tests.support.guard import until
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

POLICY = policies(
    {"slow": {"engine": "command", "command": ["sleep", "{port}"]}},
    server={"api_keys_file": "keys.txt", "max_body": "1KiB", "max_queue": 1},
)
ASK: Any = {"model": "slow", "messages": [USER], "max_tokens": 1}


@pytest.mark.llama
def test_openais(mine: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean tiny:4l") as missing:
        mine.chat.completions.create(model="tiny:4x", messages=[USER])
    with pytest.raises(openai.NotFoundError):
        mine.chat.completions.create(model="tiny:4x", messages=[USER], stream=True)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="context size") as long:
            mine.chat.completions.create(
                model=TINY, messages=[{"role": "user", "content": "word " * 2000}], stream=stream
            )
        assert long.value.code == "context_length_exceeded"
        assert long.value.type == "invalid_request_error"

    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    assert missing.value.type == "invalid_request_error"


@pytest.mark.llama
@pytest.mark.parametrize(
    ("messages", "code"),
    [([], "empty_array"), ([{"content": "x"}], "missing_required_parameter")],
)
def test_a_chat_in_which_nobody_says_anything(
    mine: openai.OpenAI, messages: Any, code: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            mine.chat.completions.create(model=TINY, messages=messages, stream=stream)
        assert error.value.code == code
        assert error.value.type == "invalid_request_error"


async def test_what_a_server_refuses_for_all(tmp_path: Path) -> None:
    """Keys, sizes and the queue: nothing of it needs a model."""
    (tmp_path / "keys.txt").write_text("secret\n")
    async with (
        proxy(tmp_path, POLICY) as server,
        _openai(server, "wrong") as wrong,
        _openai(server, "secret") as right,
        _anthropic(server, "wrong") as wrong_too,
        _anthropic(server, "secret") as right_too,
    ):
        with pytest.raises(openai.AuthenticationError) as refused:
            await wrong.models.list()
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(anthropic.AuthenticationError):
            await wrong_too.messages.create(**ASK)
        assert [entry.id async for entry in right.models.list()] == ["slow"]

        large: Any = {"role": "user", "content": "x" * 2000}
        with pytest.raises(openai.APIStatusError, match="1KiB") as size:
            await right.chat.completions.create(**ASK | {"messages": [large]})
        assert size.value.status_code == 413
        with pytest.raises(anthropic.RequestTooLargeError, match="1KiB"):
            await right_too.messages.create(**ASK | {"messages": [large]})

        waiting = asyncio.create_task(right.chat.completions.create(**ASK))
        await until(lambda: server.app.services.pool.queue_length, "one waits")
        with pytest.raises(openai.InternalServerError, match="busy") as busy:
            await right.chat.completions.create(**ASK)
        assert busy.value.status_code == 503
        assert busy.value.response.headers["Retry-After"].isdecimal()
        with pytest.raises(anthropic.ServiceUnavailableError, match="busy"):
            await right_too.messages.create(**ASK)
        waiting.cancel()
        await asyncio.wait([waiting])


def _openai(server: Proxy, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def _anthropic(server: Proxy, key: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=server.url, api_key=key, max_retries=0)
