"""An engine's answers as Anthropic's messages."""

import json
from typing import Any

import pytest

from proxy.dialect.anthropic.answers import MessageStream, message_rewriter, whole_count
from proxy.errors import EngineSaid

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 4},
}
COUNTED = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 3,
}
CALL = {"id": "c", "function": {"name": "f", "arguments": '{"city": "Rome"}'}}


def delta(finish: str | None = None, **said: Any) -> Any:
    choice = {"index": 0, "delta": said, "finish_reason": finish}
    return {"id": "chatcmpl-x", "model": "m", "choices": [choice]}


def piece(index: int, arguments: str, **named: Any) -> Any:
    function = {"arguments": arguments, **({"name": named["name"]} if named else {})}
    return {"index": index, "function": function, **({"id": named["id"]} if named else {})}


BEGINS = delta(content=None) | {"prompt_progress": {"total": 10, "cache": 4, "processed": 10}}
ENDS = {"id": "chatcmpl-x", "model": "m", "choices": [], "usage": USAGE}


def streamed(*chunks: Any, stops: tuple[str, ...] = (), size: int = 1 << 20) -> list[Any]:
    data = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)
    data += b"data: [DONE]\n\n"
    stream = MessageStream(stops)
    out = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size))
    blocks = [block.split(b"\ndata: ") for block in (out + stream.end()).split(b"\n\n") if block]
    events = [(name.removeprefix(b"event: ").decode(), json.loads(told)) for name, told in blocks]
    assert all(name == event["type"] for name, event in events)
    return [event for _, event in events]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_stream(size: int) -> None:
    events = streamed(
        BEGINS,
        delta(reasoning_content="I "),
        delta(reasoning_content="think"),
        delta(content="é"),
        delta(tool_calls=[piece(0, "", id="c", name="f")]),
        delta(tool_calls=[piece(0, "\n")]),
        delta(tool_calls=[piece(0, '{"a":')]),
        delta(tool_calls=[piece(0, " 1}")]),
        delta(tool_calls=[piece(1, "{}", id="d", name="g")]),
        delta("tool_calls"),
        ENDS,
        size=size,
    )

    head = {"id": "msg_x", "type": "message", "role": "assistant", "model": "m", "content": []}
    ended = {"stop_reason": None, "stop_sequence": None}
    assert events == [
        {
            "type": "message_start",
            "message": {**head, **ended, "usage": {**COUNTED, "output_tokens": 0}},
        },
        start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        more(0, {"type": "thinking_delta", "thinking": "I "}),
        more(0, {"type": "thinking_delta", "thinking": "think"}),
        more(0, {"type": "signature_delta", "signature": ""}),
        {"type": "content_block_stop", "index": 0},
        start(1, {"type": "text", "text": ""}),
        more(1, {"type": "text_delta", "text": "é"}),
        {"type": "content_block_stop", "index": 1},
        start(2, {"type": "tool_use", "id": "c", "name": "f", "input": {}}),
        # Never blanks alone, which Anthropic's client does not take for the beginning of JSON.
        more(2, {"type": "input_json_delta", "partial_json": '{"a":'}),
        more(2, {"type": "input_json_delta", "partial_json": " 1}"}),
        {"type": "content_block_stop", "index": 2},
        start(3, {"type": "tool_use", "id": "d", "name": "g", "input": {}}),
        more(3, {"type": "input_json_delta", "partial_json": "{}"}),
        {"type": "content_block_stop", "index": 3},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": COUNTED,
        },
        {"type": "message_stop"},
    ]


def start(index: int, block: Any) -> Any:
    return {"type": "content_block_start", "index": index, "content_block": block}


def more(index: int, change: Any) -> Any:
    return {"type": "content_block_delta", "index": index, "delta": change}


def test_nothing_is_said_before_the_model_says_something() -> None:
    """Until then another engine could answer."""
    stream = MessageStream(())

    assert stream.feed(b"data: %s\n\n" % json.dumps(BEGINS).encode()) == b""
    assert stream.feed(b"data: %s\n\n" % json.dumps(delta(content="x")).encode())


def test_an_answer_of_nothing() -> None:
    kinds = [event["type"] for event in streamed(BEGINS, delta("stop"), ENDS)]
    assert kinds == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("finish", "word", "reason", "sequence"),
    [
        ("stop", "", "end_turn", None),
        ("stop", "x", "stop_sequence", "x"),
        ("stop", "<|im_end|>", "end_turn", None),  # a template's own
        ("length", "", "max_tokens", None),
        ("tool_calls", "", "tool_use", None),
    ],
)
def test_why_it_ended(finish: str, word: str, reason: str, sequence: str | None) -> None:
    told: Any = {"__verbose": {"stopping_word": word, "prompt": "..."}}
    expected = {"stop_reason": reason, "stop_sequence": sequence}
    # What is told in detail comes with the first of the last events.
    late = streamed(
        delta(content="a"), delta(content="b") | told, delta(finish), ENDS, stops=("x",)
    )
    at_once = streamed(delta(content="a"), delta(finish) | told, ENDS, stops=("x",))
    choice = {"message": {"content": "ab"}, "finish_reason": finish}
    whole = message({"choices": [choice], "usage": USAGE, **told}, stops=("x",))

    assert late[-2]["delta"] == at_once[-2]["delta"] == expected
    assert {key: whole[key] for key in expected} == expected


def message(answer: Any, stops: tuple[str, ...] = ()) -> Any:
    rewrite = message_rewriter(False, stops)
    assert rewrite.feed(json.dumps(answer).encode()) == b""
    return json.loads(rewrite.end())


def test_a_whole_message() -> None:
    said = {"content": "hi", "reasoning_content": "I think", "tool_calls": [CALL]}
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls"}
    made = message({"id": "chatcmpl-x", "model": "m", "choices": [choice], "usage": USAGE})

    assert made == {
        **{"id": "msg_x", "type": "message", "role": "assistant", "model": "m"},
        "content": [
            {"type": "thinking", "thinking": "I think", "signature": ""},
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"city": "Rome"}},
        ],
        **{"stop_reason": "tool_use", "stop_sequence": None, "usage": COUNTED},
    }


def test_a_call_that_was_cut() -> None:
    cut = {"function": {"name": "f", "arguments": '{"city": "Ro'}}
    choice = {"message": {"tool_calls": [cut]}, "finish_reason": "length"}

    assert message({"choices": [choice]})["content"][0]["input"] == {}


def test_an_error_in_the_middle_is_the_last_event() -> None:
    failed = {"error": {"code": 500, "message": "no memory", "type": "server_error"}}
    events = streamed(delta(content="a"), failed, delta(content="b"))

    assert events[-1] == {"type": "error", "error": {"type": "api_error", "message": "no memory"}}
    assert [event["type"] for event in events].count("error") == 1


@pytest.mark.parametrize("data", [b"data: {}}\n\n", b'data: {"choices": 5}\n\n'])
def test_what_makes_no_sense_is_an_error_too(data: bytes) -> None:
    stream = MessageStream(())

    assert b'"type":"error"' in stream.feed(data)
    assert stream.end() == b""
    with pytest.raises(EngineSaid, match="made no sense"):
        message({"choices": 5})


def test_an_answer_without_an_end_does_not_look_like_one_that_has() -> None:
    assert [event["type"] for event in streamed(delta(content="a"))][-1] == "error"


def test_a_count() -> None:
    assert whole_count(b'{"input_tokens": 5, "object": "x"}') == b'{"input_tokens":5}'
    with pytest.raises(EngineSaid):
        whole_count(b"{}")
