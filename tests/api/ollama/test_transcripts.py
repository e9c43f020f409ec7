"""The exact fields of every answer, their types and their order, as Ollama documents them."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.api.ollama.conftest import EMBEDDER, TINY, Raw
from tests.api.ollama.test_templates import WEATHER, conversation

pytestmark = pytest.mark.llama

TIME = "time"
Shape = Mapping[str, Any]
OPTIONS = {"num_predict": 3, "temperature": 0}
MESSAGES = [{"role": "user", "content": "hi"}]
DURATIONS = {
    "total_duration": int,
    "load_duration": int,
    "prompt_eval_count": int,
    "prompt_eval_duration": int,
    "eval_count": int,
    "eval_duration": int,
}
MESSAGE = {"role": str, "content": str}
TOKEN = {"token": str, "logprob": float, "bytes": [int]}
LOGPROBS = [{**TOKEN, "top_logprobs": [TOKEN]}]
GENERATED = {"model": str, "created_at": TIME, "response": str, "done": bool}
CHATTED = {"model": str, "created_at": TIME, "message": MESSAGE, "done": bool}
DETAILS = {
    "parent_model": str,
    "format": str,
    "family": str,
    "families": [str],
    "parameter_size": str,
    "quantization_level": str,
}
GO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z")


def assert_shape(value: Any, shape: Any, where: str = "") -> None:
    if shape is TIME:
        assert GO_TIME.fullmatch(value), where
    elif isinstance(shape, dict):
        assert list(value) == list(shape), where
        for name, inner in shape.items():
            assert_shape(value[name], inner, f"{where}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        assert value, f"{where} shows nothing of its items"
        for item in value:
            assert_shape(item, shape[0], where + "[]")
    else:
        assert type(value) is shape, where


def assert_lines(lines: list[Any], shape: Shape, last: Shape) -> None:
    """All lines of a stream: some of one shape, and a last one."""
    assert_shape(lines[:-1], [shape])
    assert_shape(lines[-1], last)


def test_generate(raw: Raw) -> None:
    lines = raw.lines("/api/generate", model=TINY, prompt="hi", options=OPTIONS)
    whole = raw.post("/api/generate", model=TINY, prompt="hi", stream=False, options=OPTIONS)

    last = {**GENERATED, "done_reason": str, "context": [int], **DURATIONS}
    assert_lines(lines, GENERATED, last)
    assert lines[-1]["response"] == ""
    assert whole.content_type == "application/json; charset=utf-8"
    assert_shape(whole.json(), last)


def test_generate_with_probabilities(raw: Raw) -> None:
    asked = {"model": TINY, "prompt": "hi", "options": OPTIONS, "logprobs": True}
    lines = raw.lines("/api/generate", **asked, top_logprobs=2)
    whole = raw.post("/api/generate", **asked, top_logprobs=2, stream=False).json()

    last = {**GENERATED, "done_reason": str, "context": [int], **DURATIONS}
    assert_lines(lines, {**GENERATED, "logprobs": LOGPROBS}, last)
    assert_shape(whole, {**last, "logprobs": LOGPROBS})


def test_generate_raw(raw: Raw) -> None:
    lines = raw.lines("/api/generate", model=TINY, prompt="hi", raw=True, options=OPTIONS)

    assert_lines(lines, GENERATED, {**GENERATED, "done_reason": str, **DURATIONS})


def test_chat(raw: Raw) -> None:
    lines = raw.lines("/api/chat", model=TINY, messages=MESSAGES, options=OPTIONS)
    whole = raw.post("/api/chat", model=TINY, messages=MESSAGES, stream=False, options=OPTIONS)

    last = {**CHATTED, "done_reason": str, **DURATIONS}
    assert_lines(lines, CHATTED, last)
    assert lines[-1]["message"] == {"role": "assistant", "content": ""}
    assert_shape(whole.json(), last)


def test_chat_with_probabilities(raw: Raw) -> None:
    asked = {"model": TINY, "messages": MESSAGES, "options": OPTIONS, "logprobs": True}
    lines = raw.lines("/api/chat", **asked, top_logprobs=1)
    whole = raw.post("/api/chat", **asked, top_logprobs=1, stream=False).json()

    last = {**CHATTED, "done_reason": str, **DURATIONS}
    assert_lines(lines, {**CHATTED, "logprobs": LOGPROBS}, last)
    assert_shape(whole, {**CHATTED, "done_reason": str, "logprobs": LOGPROBS, **DURATIONS})


def test_thinking_and_calling(raw: Raw) -> None:
    asked = {
        "model": "gpt-oss-forced",
        "messages": conversation("gpt-oss"),
        "tools": [WEATHER],
        "options": {"num_predict": 60},
    }

    lines = raw.lines("/api/chat", **asked)
    whole = raw.post("/api/chat", **asked, stream=False).json()

    function = {"index": int, "name": str, "arguments": {"city": str}}
    calls = [{"id": str, "function": function}]
    last = {**CHATTED, "done_reason": str, **DURATIONS}
    calling = [line for line in lines if "tool_calls" in line["message"]]
    thinking = [line for line in lines if "thinking" in line["message"]]
    assert len(calling) == 1
    assert thinking
    assert_shape(calling[0], {**CHATTED, "message": {**MESSAGE, "tool_calls": calls}})
    assert_shape(thinking[0], {**CHATTED, "message": {**MESSAGE, "thinking": str}})
    assert_shape(lines[-1], last)
    assert_shape(whole, {**last, "message": {**MESSAGE, "thinking": str, "tool_calls": calls}})


def test_loading_and_unloading(raw: Raw) -> None:
    for more, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
        generated = raw.post("/api/generate", model=TINY, **more).json()
        chatted = raw.post("/api/chat", model=TINY, messages=[], **more).json()

        assert_shape(generated, {**GENERATED, "done_reason": str})
        assert_shape(chatted, {**CHATTED, "done_reason": str})
        assert (generated["done_reason"], chatted["done_reason"]) == (reason, reason)
        assert generated["done"]


def test_embed(raw: Raw) -> None:
    one = raw.post("/api/embed", model=EMBEDDER, input="hi").json()
    none = raw.post("/api/embed", model=EMBEDDER, input=[]).json()
    old = raw.post("/api/embeddings", model=EMBEDDER, prompt="hi").json()

    head = {"model": str, "embeddings": [[float]]}
    durations = {"total_duration": int, "load_duration": int, "prompt_eval_count": int}
    assert_shape(one, {**head, **durations})
    assert_shape(none | {"embeddings": [[0.0]]}, head)
    assert none["embeddings"] == []
    assert_shape(old, {"embedding": [float]})
    assert len(old["embedding"]) == 256
    assert raw.post("/api/embeddings", model=EMBEDDER).json() == {"embedding": []}


def test_tags(raw: Raw) -> None:
    answer = raw.get("/api/tags")

    assert list(answer) == ["models"]
    names = [entry["name"] for entry in answer["models"]]
    assert {TINY, "encoder:latest", "qwen3:latest"} <= set(names)
    for entry in answer["models"]:
        details = {name: type(value) for name, value in entry["details"].items()}
        assert list(details)[: len(DETAILS)] == list(DETAILS)
        assert set(details) - set(DETAILS) <= {"context_length", "embedding_length"}
        assert_shape(
            {**entry, "details": {name: entry["details"][name] for name in DETAILS}},
            {
                **{"name": str, "model": str, "modified_at": TIME, "size": int, "digest": str},
                **{"details": DETAILS, "capabilities": [str]},
            },
        )
    capabilities = {entry["name"]: entry["capabilities"] for entry in answer["models"]}
    assert capabilities[TINY] == ["completion"]
    assert capabilities["encoder:latest"] == ["embedding"]
    assert capabilities["qwen3:latest"] == ["completion", "tools", "thinking"]
    for name, words in capabilities.items():
        assert raw.post("/api/show", model=name).json()["capabilities"] == words


def test_show(raw: Raw) -> None:
    short = raw.post("/api/show", model=TINY).json()
    full = raw.post("/api/show", model=TINY, verbose=True).json()
    by_old_name = raw.post("/api/show", name=TINY).json()

    fields = ["modelfile", "template", "details", "model_info"]
    # Ours, after Ollama's.
    ours = ["context_length"]
    assert list(short) == [*fields, "capabilities", "modified_at", *ours]
    assert list(full) == [*fields, "tensors", "capabilities", "modified_at", *ours]
    assert short["context_length"] == 1024, "what is served"
    assert short["details"]["context_length"] > 1024, "what it was trained for"
    assert by_old_name == short
    assert_shape(full["tensors"], [{"name": str, "type": str, "shape": [int]}])
    assert len(full["model_info"]["tokenizer.ggml.tokens"]) > 1000
    assert short["model_info"]["tokenizer.ggml.tokens"] is None
    assert short["model_info"]["qwen3moe.attention.layer_norm_rms_epsilon"] == 1e-06
    assert list(short["model_info"]) == sorted(short["model_info"])
    assert short["model_info"]["general.parameter_count"] > 1_000_000
    assert "general.name" not in short["model_info"]


def test_ps(raw: Raw) -> None:
    raw.post("/api/generate", model=TINY, keep_alive=-1)
    forever = raw.get("/api/ps")["models"][0]
    raw.post("/api/generate", model=TINY, keep_alive="2m")
    answer = raw.get("/api/ps")

    entry = next(entry for entry in answer["models"] if entry["name"] == TINY)
    shape = {
        **{"name": str, "model": str, "size": int, "digest": str, "details": dict},
        **{"expires_at": TIME, "size_vram": int, "context_length": int},
        # Ours, after Ollama's:
        **{"moe_cpu_layers": int, "block_count": int, "backend": str},
    }
    assert_shape(entry, shape)
    assert entry["block_count"] == 4
    assert forever["expires_at"].startswith("9999"), "the one that stays longest is the first"
    raw.post("/api/generate", model=TINY, keep_alive="10s")


def test_version_and_root(raw: Raw) -> None:
    version = raw.get("/api/version")

    assert list(version) == ["version", "moe_proxy"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version["version"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("POST", "/api/tags", 405),
        ("GET", "/api/chat", 405),
        ("POST", "/api/me", 403),
        ("POST", "/api/experimental/web_search", 403),
    ],
)
async def test_what_there_is_not(http: Any, method: str, path: str, status: int) -> None:
    async with http.request(method, path) as answer:
        assert answer.status == status
        assert_shape(await answer.json(), {"error": str})


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/generate", b"", 400, "missing request body"),
        ("/api/chat", b" ", 400, "missing request body"),
        ("/api/embed", b"{", 400, "the body is not"),
        ("/api/chat", b"{}", 400, "model is required"),
        ("/api/embeddings", b"{}", 400, "model is required"),
        ("/api/show", b"{}", 400, "model is required"),
        ("/api/generate", b"{}", 400, "model is required"),
        ("/api/generate", b'{"model":"x","top_logprobs":21}', 400, "between 0 and 20"),
        ("/api/generate", b'{"model":"x","format":7}', 400, "invalid format: 7"),
        ("/api/generate", b'{"model":"x","think":"a lot"}', 400, "invalid think value"),
        ("/api/generate", b'{"model":"x","raw":true,"system":"s"}', 400, "raw mode does not"),
        ("/api/generate", b'{"model":"x","keep_alive":"soon"}', 400, "keep_alive"),
        ("/api/generate", b'{"model":"x","images":["?"]}', 400, "base64"),
        ("/api/embed", b'{"model":"x","input":[1]}', 400, "invalid input type"),
        ("/api/chat", b'{"model":"x","messages":{}}', 400, "$.messages"),
    ],
)
async def test_bodies_that_are_refused(
    http: Any, path: str, body: bytes, status: int, message: str
) -> None:
    async with http.post(path, data=body) as answer:
        assert answer.status == status
        error = await answer.json()
        assert_shape(error, {"error": str})
        assert message in error["error"]


async def test_somebody_is_there(http: Any) -> None:
    async with http.get("/") as answer:
        assert await answer.text() == "Ollama is running"
    for path in ("/", "/api/tags", "/api/version"):
        async with http.head(path) as answer:
            assert answer.status == 200
