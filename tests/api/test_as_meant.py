"""What clients send askew is answered as it was meant, by a real engine, on every route."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import Served, served

pytestmark = pytest.mark.llama
M, ENCODER = "tiny", "encoder"
MISSING = "\ufffd"
SAID = b'"messages": [{"role": "user", "content": "%s"}]'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("as_meant")
    talks = model(layers=2, template="Qwen-Qwen3-0.6B")
    models = {M: {"path": talks}, ENCODER: {"path": model("bert", layers=2)}}
    with served(folder, policies(models, catalog={"state": folder / "state"})) as address:
        yield address


async def ask(url: Served, path: str, body: bytes) -> tuple[int, Any]:
    timeout = aiohttp.ClientTimeout(HANG_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.post(url + path, data=body) as answer:
            return answer.status, json.loads(await answer.read())


HALVES = {rb"Hi \ud83d": f"Hi {MISSING}", b"caf\xe9 \xfc": f"caf{MISSING} {MISSING}"}
TEXTS = {
    "/v1/chat/completions": b'{"model": "tiny", "max_tokens": 2, %s}' % SAID,
    "/v1/completions": b'{"model": "tiny", "max_tokens": 2, "prompt": "%s"}',
    "/v1/responses": b'{"model": "tiny", "max_output_tokens": 2, "input": "%s"}',
    "/v1/messages": b'{"model": "tiny", "max_tokens": 2, %s}' % SAID,
    "/v1/messages/count_tokens": b'{"model": "tiny", %s}' % SAID,
    "/v1/embeddings": b'{"model": "encoder", "input": ["%s"]}',
    "/v1/rerank": b'{"model": "encoder", "query": "%s", "documents": ["a"]}',
    "/apply-template": b'{"model": "tiny", %s}' % SAID,
    "/infill": b'{"model": "tiny", "input_prefix": "%s", "input_suffix": "", "n_predict": 2}',
    "/api/chat": b'{"model": "tiny", "stream": false, "options": {"num_predict": 2}, %s}' % SAID,
    "/api/generate": b'{"model": "tiny", "stream": false, "options": {"num_predict": 2},'
    b' "prompt": "%s"}',
    "/api/embed": b'{"model": "encoder", "input": "%s"}',
    "/api/embeddings": b'{"model": "encoder", "prompt": "%s"}',
    "/api/show": b'{"model": "tiny", "system": "%s"}',
}


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("text", HALVES)
async def test_half_a_character_is_no_reason_to_refuse(path: str, text: bytes, url: Served) -> None:
    status, told = await ask(url, path, TEXTS[path] % text)

    if path == "/infill":  # the model has no tokens for it, which is all that there is to say
        assert (status, told) == await ask(url, path, TEXTS[path] % b"Hi")
    else:
        assert status == 200, told
    if path == "/apply-template":
        assert HALVES[text] in told["prompt"]
    if path == "/api/show":
        assert told["system"] == HALVES[text]


@pytest.mark.parametrize("path", ["/tokenize", f"/upstream/{M}/tokenize"])
@pytest.mark.parametrize("text", HALVES)
async def test_the_engine_gets_what_is_in_its_place(path: str, text: bytes, url: Served) -> None:
    body = b'{"model": "tiny", "content": "%s"}'
    wanted = await ask(url, path, body % HALVES[text].encode())

    assert wanted[0] == 200
    assert await ask(url, path, body % text) == wanted


TOOL = {"name": "f", "description": None, "strict": None, "parameters": {"type": "object"}}
CALL = {"id": None, "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": None}
NULLS: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief.", "name": None},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": None}]},
        {"role": "assistant", "content": None, "reasoning_content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "x", "tool_call_id": None, "name": None},
        {"role": "assistant", "content": "Ho", "tool_calls": None, "refusal": None, "audio": None},
        {"role": "user", "content": "Hi", "name": None, "tool_call_id": None},
    ],
    "tools": [{"type": "function", "function": TOOL, "id": None}],
}
SAMPLING = dict.fromkeys(
    ("temperature", "top_p", "seed", "stop", "n", "logit_bias", "response_format", "tool_choice",
     "stream", "stream_options", "frequency_penalty", "logprobs", "top_logprobs", "user",
     "parallel_tool_calls", "reasoning_effort", "metadata", "grammar", "json_schema", "keep_alive",
     "options", "moe_cpu_layers", "max_completion_tokens", "chat_template_kwargs", "think")
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", NULLS | SAMPLING),
        ("/v1/chat/completions", {"messages": NULLS["messages"], "tools": None}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "system": None}
         | dict.fromkeys(("tools", "tool_choice", "thinking", "stop_sequences", "metadata"))),
        ("/v1/responses", {"input": "Hi"} | dict.fromkeys(
            ("tools", "instructions", "text", "reasoning", "previous_response_id", "include"))),
        ("/v1/responses", {"input": [{"type": "message", "role": "user", "content": "Hi",
                                      "id": None, "status": None}]}),
        ("/v1/completions", {"prompt": "Hi", "suffix": None, "logprobs": None, "echo": None}),
        ("/apply-template", NULLS),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi", "images": None}],
                       "stream": False, "tools": None, "format": None,
                       "options": {"num_predict": 2}}),
    ],
)  # fmt: skip
async def test_null_means_that_nothing_is_said(
    path: str, body: dict[str, Any], url: Served
) -> None:
    few = {"max_tokens": 2, "max_output_tokens": 2} if path.startswith("/v1") else {}
    status, told = await ask(url, path, json.dumps({"model": M} | few | body).encode())

    assert status == 200, told


NIL = {"type": "object", "properties": None, "required": None}
NIL_TOOLS = [{"type": "function", "function": TOOL | {"parameters": NIL}}]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"tools": NIL_TOOLS}),
        ("/v1/messages", {"tools": [{"name": "f", "input_schema": NIL}]}),
        ("/api/chat", {"tools": NIL_TOOLS}),
        ("/api/chat", {"tools": [{"type": None, "function": {"name": "f"}}]}),
        ("/api/chat", {"format": NIL}),
        ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "strict": None, "description": None, "schema": NIL}}}),
    ],
)  # fmt: skip
async def test_schemas_may_have_words_that_say_nothing(
    path: str, more: dict[str, Any], url: Served
) -> None:
    """Who writes Go has null where a list or a map is empty."""
    said = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": False}
    body = {"model": M, "options": {"num_predict": 2}, **said, **more}
    status, told = await ask(url, path, json.dumps(body).encode())

    assert status == 200, told


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
        {"tool_calls": [CALL | {"type": None, "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [CALL | {"function": {"name": "f", "arguments": '{"a": "cut of'}}]},
        {"content": [{"type": "refusal", "refusal": "no"}]},
        {"content": [{"type": "text", "text": None}]},
    ],
)
async def test_what_was_said_before_is_no_reason_to_refuse(
    message: dict[str, Any], url: Served
) -> None:
    user = {"role": "user", "content": "Hi"}
    messages = [user, {"role": "assistant", **message}, user]
    body = {"model": M, "max_tokens": 2, "messages": messages}
    status, told = await ask(url, "/v1/chat/completions", json.dumps(body).encode())

    assert status == 200, told


CHOICES: dict[str, dict[str, Any]] = {
    "/v1/messages/count_tokens": {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
    },
    "/v1/chat/completions/input_tokens": {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
        "logprobs": True,
    },
    "/v1/responses/input_tokens": {
        "input": "Hi",
        "tools": [{"type": "function", "name": "f"}],
        "tool_choice": {"type": "function", "name": "f"},
    },
    "/apply-template": {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
    },
}


@pytest.mark.parametrize("path", CHOICES)
async def test_tokens_are_counted_where_a_call_is_required(path: str, url: Served) -> None:
    status, told = await ask(url, path, json.dumps({"model": M} | CHOICES[path]).encode())

    assert status == 200, told
    assert told.get("input_tokens", 0) > 10 or '"name": "f"' in told["prompt"]


async def test_an_encoding_may_be_null(url: Served) -> None:
    body = b'{"model": "encoder", "input": "x", "encoding_format": null, "dimensions": null}'
    status, told = await ask(url, "/v1/embeddings", body)

    assert status == 200, told
    assert isinstance(told["data"][0]["embedding"], list)


@pytest.mark.parametrize(
    ("path", "few"),
    [
        ("/v1/chat/completions", b'"%s": 2, "%s": false' % (b"max_tokens", b"stream")),
        ("/v1/chat/completions", b'"%s": 2, "%s": false' % (b"Max_Tokens", b"STREAM")),
        ("/api/chat", b'"options": {"num_predict": 2}, "stream": false'),
        ("/api/chat", b'"Options": {"num_predict": 2}, "Stream": false'),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"Model": "tiny", "Messages": [{"Role": "user", "Content": "Hi"}], %s}',
        b'{"MODEL": "tiny", "MESSAGES": [{"ROLE": "user", "CONTENT": "Hi"}], %s}',
        b'{"model": "tiny", "messages": [{"Role": "user", "Content": "Hi"}], %s}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], %s}}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], %s} {"a": 1}',
    ],
)
async def test_capitals_and_what_stands_behind(
    path: str, few: bytes, body: bytes, url: Served
) -> None:
    """They are taken by Ollama, and so by who was written for it."""
    status, told = await ask(url, path, body % few)

    assert status == 200, told
    message = told["message"] if path == "/api/chat" else told["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert told.get("eval_count", told.get("usage", {}).get("completion_tokens")) == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/show", b'{"MODEL": "tiny"}'),
        ("/api/generate", b'{"Model": "tiny"}}'),
        ("/api/copy", b'{"Source": "nothing", "destination": "x"} x'),
        ("/api/create", b'{"Model": "x", "FROM": "never/was", "Stream": false, "name": null}'),
    ],
)
async def test_so_are_all_of_ollamas(path: str, body: bytes, url: Served) -> None:
    status, told = await ask(url, path, body)

    assert status == (200 if b"tiny" in body else 404 if b"Source" in body else 500), told


@pytest.mark.parametrize("tool", [None, {}, {"type": "function"}, {"function": {"name": None}}, 5])
async def test_a_tool_that_is_none_is_no_fault_of_ours(tool: Any, url: Served) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for path in ("/api/chat", "/v1/chat/completions"):
        body = json.dumps({"model": M, "messages": messages, "tools": [tool]})
        status, told = await ask(url, path, body.encode())
        assert status == 400
        assert "tools[0]" in json.dumps(told)


LONG = {"Cookie": "a=" + "b" * 9000, "X-Long": "c" * 60_000, "Referer": "d" * 20_000}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/chat/completions?q="])
async def test_long_heads_are_no_reason_to_refuse(path: str, url: Served) -> None:
    """Programs on one machine share its cookies, whatever their ports."""
    many = {f"X-{number}": "x" for number in range(100)}
    body = TEXTS[path.partition("?")[0]] % b"Hi"
    path += "y" * 60_000 if path.endswith("=") else ""
    for headers in (LONG, many):
        async with aiohttp.ClientSession() as session:
            async with session.post(url + path, data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
