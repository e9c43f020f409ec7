"""A prompt that does not fit: whoever runs the proxy is told, with the key to change. A real
worker."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

CTX = 512
LONG = "word " * 900
TURNS = [{"role": "user", "content": "word " * 200} for _ in range(4)]


def body(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": LONG}]
    return {"model": "m", "messages": messages, "max_tokens": 2} | more


async def warnings(server: Proxy, path: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    with capture_logs() as logs:
        async with server.session.post(path, json=asked) as answer:
            await answer.read()
    return [dict(line) for line in logs if line["event"] in ("prompt_cut", "prompt_refused")]


async def test_whoever_runs_it_is_told_of_each(tmp_path: Path) -> None:
    """By every route, whether the answer is a stream, waited for, or has begun early."""
    table = {"path": model(layers=4), "ctx": CTX, "parallel": 1}
    cut, refused = "prompt_cut", "prompt_refused"
    cases = [
        ("/v1/chat/completions", body(), refused),
        ("/v1/chat/completions", body(stream=True), refused),
        ("/v1/completions", {"model": "m", "prompt": LONG, "max_tokens": 2}, refused),
        ("/v1/messages", body(), refused),
        ("/v1/messages", body(stream=True), refused),
        ("/v1/responses", {"model": "m", "input": LONG, "max_output_tokens": 2}, refused),
        ("/api/chat", body(messages=TURNS, stream=False), cut),
        ("/api/chat", body(messages=TURNS, truncate=False), refused),
        ("/api/chat", body(), refused),
        ("/api/embed", {"model": "m", "input": LONG, "options": {"num_ctx": CTX}}, cut),
        ("/api/embed", {"model": "m", "input": LONG, "truncate": False}, refused),
    ]
    async with proxy(tmp_path, policies({"m": table})) as server:
        for path, asked, event in cases:
            (line,) = await warnings(server, path, asked)
            assert (line["event"], line["model"], line["ctx"]) == (event, "m", CTX), (path, asked)
            assert 'ctx under [models."m"]' in line["hint"]
            assert "num_ctx" in line["hint"]
            assert line["log_level"] == "warning"
            if not path.startswith("/api/embed"):
                assert line["prompt_tokens"] > CTX, path


async def test_nobody_is_told_of_what_fits_or_is_refused_for_another_reason(tmp_path: Path) -> None:
    table = {"path": model(layers=4), "ctx": CTX, "parallel": 1}
    short = [{"role": "user", "content": "exceed_context_size_error"}]
    async with proxy(tmp_path, policies({"m": table})) as server:
        for more in ({}, {"stream": True}, {"temperature": "warm"}, {"grammar": "no grammar ::"}):
            asked = body(messages=short, **more)
            assert await warnings(server, "/v1/chat/completions", asked) == []
            assert await warnings(server, "/api/chat", body(messages=short)) == []
