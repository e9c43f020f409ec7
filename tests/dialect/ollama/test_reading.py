"""What engines say, as events."""

import msgspec
import pytest

from proxy.dialect.ollama.events import (
    Counts,
    Failure,
    Finish,
    Logprob,
    Text,
    TokenLogprob,
    ToolCallPart,
)
from proxy.dialect.ollama.reading import failure, read_chat, read_completion


@pytest.mark.parametrize(
    ("delta", "event"),
    [
        ({"role": "assistant", "content": None}, None),
        ({"content": ""}, None),
        ({"content": "a"}, Text("a")),
        ({"reasoning_content": "b"}, Text(thinking="b")),
        ({"reasoning": "b"}, Text(thinking="b")),
        (
            {"tool_calls": [{"index": 1, "id": "x", "function": {"name": "f", "arguments": "{"}}]},
            ToolCallPart(1, "x", "f", "{"),
        ),
        (
            {"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]},
            ToolCallPart(1, "", "", "}"),
        ),
    ],
)
def test_pieces_of_a_chat(delta: dict[str, object], event: object) -> None:
    data = msgspec.json.encode({"choices": [{"delta": delta, "finish_reason": None}]})

    assert read_chat(data) == ([] if event is None else [event])


@pytest.mark.parametrize(
    ("said", "told"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("content_filter", "stop")],
)
def test_why_a_chat_ends(said: str, told: str) -> None:
    data = msgspec.json.encode({"choices": [{"delta": {}, "finish_reason": said}]})

    assert read_chat(data) == [Finish(told)]  # type: ignore[arg-type]


def test_what_a_chat_cost() -> None:
    timings = {"cache_n": 5, "prompt_n": 2, "prompt_ms": 1.5, "predicted_n": 3, "predicted_ms": 4}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    measured = {"choices": [], "usage": usage, "timings": timings}

    assert read_chat(msgspec.json.encode(measured)) == [Counts(7, 3, 1_500_000, 4_000_000)]
    assert read_chat(msgspec.json.encode({"choices": [], "usage": usage})) == [Counts(7, 3)]
    assert read_chat(b"[DONE]") == []


def test_only_the_first_choice_counts() -> None:
    choices = [{"delta": {"content": text}} for text in "ab"]

    assert read_chat(msgspec.json.encode({"choices": choices})) == [Text("a")]


def test_probabilities() -> None:
    token = {"token": "a", "logprob": -1, "bytes": [97], "id": 3}
    listed = [token | {"top_logprobs": [token]}]
    data = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": listed}}]}
    last = {"content": "", "stop": True, "stop_type": "eos", "completion_probabilities": listed}
    read = (Logprob(TokenLogprob("a", -1.0), (TokenLogprob("a", -1.0),)),)

    assert read_chat(msgspec.json.encode(data)) == [Text("a", logprobs=read)]
    plain = {"content": "a", "completion_probabilities": listed}
    assert read_completion(msgspec.json.encode(plain)) == [Text("a", logprobs=read)]
    assert read_completion(msgspec.json.encode(last)) == [Finish("stop")], "they are a repetition"


def test_a_completion() -> None:
    timings = {"cache_n": 0, "prompt_n": 2, "prompt_ms": 1, "predicted_n": 3, "predicted_ms": 4}
    end = {"content": "!", "stop": True, "stop_type": "limit", "timings": timings}

    assert read_completion(b'{"content":"a","stop":false}') == [Text("a")]
    assert read_completion(b'{"content":"","stop":false}') == []
    assert read_completion(msgspec.json.encode(end)) == [
        Text("!"),
        Finish("length"),
        Counts(2, 3, 1_000_000, 4_000_000),
    ]


@pytest.mark.parametrize(
    ("error", "read"),
    [
        ("no", Failure("no", 500)),
        ({"message": "no", "code": 400}, Failure("no", 400)),
        ({"message": "no", "code": "bad"}, Failure("no", 500)),
        ({"odd": 1}, Failure('{"odd":1}', 500)),
    ],
)
def test_errors(error: object, read: Failure) -> None:
    data = msgspec.json.encode({"error": error})

    assert read_chat(data) == [read]
    assert read_completion(data) == [read]
    assert failure(error) == read


def test_nonsense() -> None:
    with pytest.raises(msgspec.DecodeError):
        read_chat(b"{")
    with pytest.raises(msgspec.DecodeError):
        read_completion(b'{"content":1}')


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"\xff"}}],"content":"\xff"}',
        b'{"choices":[],"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"choices":[],"stop":true,"timings":{"prompt_ms":1e308}}',
    ],
    ids=["bytes that are no text", "nested too deep", "numbers that are too large"],
)
def test_nonsense_of_every_kind_is_told_alike(data: bytes) -> None:
    for read in (read_chat, read_completion):
        with pytest.raises(msgspec.DecodeError):
            read(data)
