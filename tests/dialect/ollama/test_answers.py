"""Events as the lines that Ollama's clients read."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.ollama.answers import Durations, Endpoint, Writer, error_line
from proxy.dialect.ollama.events import (
    Counts,
    Finish,
    Logprob,
    Text,
    TokenLogprob,
    ToolCallPart,
)

AT = "2026-01-02T03:04:05Z"
DURATIONS = Durations(total_ns=9, load_ns=2)
Writable = Text | ToolCallPart | Finish | Counts


def lines_of(
    events: list[Writable], *, endpoint: Endpoint = "chat", stream: bool = True
) -> list[dict[str, Any]]:
    writer = Writer(endpoint, "m", stream=stream)
    written = b"".join([*(writer.write(event, AT) for event in events), writer.end(AT, DURATIONS)])
    return [json.loads(line) for line in written.splitlines()]


def test_text_comes_at_once() -> None:
    first, second, last = lines_of(
        [Text(thinking="hm"), Text("a"), Finish("length"), Counts(4, 1, 5, 6)]
    )

    assert first["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert second["message"] == {"role": "assistant", "content": "a"}
    assert not second["done"]
    assert last == {
        "model": "m",
        "created_at": AT,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "length",
        "total_duration": 9,
        "load_duration": 2,
        "prompt_eval_count": 4,
        "prompt_eval_duration": 5,
        "eval_count": 1,
        "eval_duration": 6,
    }


def test_calls_come_whole() -> None:
    """The first once the second begins, the second at the end."""
    lines = lines_of(
        [
            ToolCallPart(0, "i", "f", '{"a":'),
            ToolCallPart(0, "", "", "1}"),
            ToolCallPart(1, "", "g", ""),
            Finish("stop"),
        ]
    )

    assert [line["message"].get("tool_calls") for line in lines] == [
        [{"id": "i", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
        [{"function": {"index": 1, "name": "g", "arguments": {}}}],
        None,
    ]


def test_text_after_a_call_ends_it() -> None:
    lines = lines_of([ToolCallPart(0, "i", "f", "{}"), Text("so"), Finish("stop")])

    assert lines[0]["message"]["content"] == "so"
    assert len(lines[0]["message"]["tool_calls"]) == 1
    assert "tool_calls" not in lines[1]["message"]


def test_arguments_that_were_cut_off() -> None:
    [line] = lines_of([ToolCallPart(0, "i", "f", '{"a": "b'), Finish("length")], stream=False)

    assert line["message"]["tool_calls"][0]["function"]["arguments"] == {}


def test_whether_it_is_all() -> None:
    writer = Writer("chat", "m", stream=False)
    assert not writer.finished
    writer.write(Finish("stop"), AT)
    assert writer.finished


def test_nothing_said_is_nothing_written() -> None:
    assert len(lines_of([Finish("stop")])) == 1
    assert lines_of([], endpoint="generate")[0]["response"] == ""


def test_probabilities() -> None:
    entry = Logprob(TokenLogprob("é", -1.5), (TokenLogprob("", -2.0),))
    [line, _] = lines_of([Text("é", logprobs=(entry,))], endpoint="generate")

    assert line["logprobs"] == [
        {
            "token": "é",
            "logprob": -1.5,
            "bytes": [195, 169],
            "top_logprobs": [{"token": "", "logprob": -2.0}],
        }
    ]


def test_the_conversation_as_tokens() -> None:
    writer = Writer("generate", "m", stream=True)

    last = json.loads(writer.end(AT, DURATIONS, context=[1, 2], reason="load"))

    assert last["context"] == [1, 2]
    assert last["done_reason"] == "load"
    assert list(last).index("context") == list(last).index("done_reason") + 1


EVENTS = st.lists(
    st.one_of(
        st.builds(Text, st.text(max_size=3), st.text(max_size=3)),
        st.builds(
            ToolCallPart,
            st.integers(0, 3),
            st.sampled_from(["", "i"]),
            st.sampled_from(["", "f"]),
            st.just(""),
        ),
    )
)


@given(EVENTS, st.sampled_from(["chat", "generate"]))
def test_streamed_or_not_says_the_same(events: list[Writable], endpoint: Endpoint) -> None:
    # Calls come in order, and none is taken up again.
    parts = sorted((e for e in events if isinstance(e, ToolCallPart)), key=lambda part: part.index)
    ordered: list[Writable] = [*(e for e in events if isinstance(e, Text)), *parts, Finish("stop")]

    streamed = lines_of(ordered, endpoint=endpoint)
    [whole] = lines_of(ordered, endpoint=endpoint, stream=False)

    if endpoint == "generate":
        assert "".join(line["response"] for line in streamed) == whole["response"]
        return
    for name in ("content", "thinking"):
        text = "".join(line["message"].get(name, "") for line in streamed)
        assert text == whole["message"].get(name, "")
    calls = [call for line in streamed for call in line["message"].get("tool_calls", [])]
    assert calls == whole["message"].get("tool_calls", [])
    assert all(not line["done"] for line in streamed[:-1])


def test_errors_in_the_middle() -> None:
    assert error_line('say "no"') == b'{"error":"say \\"no\\""}\n'
