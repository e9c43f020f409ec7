"""The events and the object of a response."""

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec

from proxy.dialect.openai.chunks import Chunk, read_chunk
from proxy.dialect.openai.requests import REPEATED, Asked
from proxy.dialect.openai.response import Response
from proxy.dialect.openai.tools import Tools

NOW_S = 1_800_000_000.5


def asked(**more: Any) -> Asked:
    top = more.pop("top_logprobs", 0)
    return Asked({}, [], {**REPEATED, "top_logprobs": top}, **more)


def told(*chunks: Any, of: Asked | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The events of a whole stream."""
    count = itertools.count()
    response = Response(of or asked(), lambda prefix: f"{prefix}{next(count)}", lambda: NOW_S)
    made = [event for chunk in map(as_chunk, chunks) for event in response.feed(chunk)]
    return [*made, *response.end()]


def as_chunk(given: Any) -> Chunk:
    return read_chunk(msgspec.json.encode({"model": "m", **given}))


def says(finish: str | None = None, **delta: Any) -> Any:
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


def kinds(events: Iterable[tuple[str, Any]]) -> list[str]:
    return [kind.removeprefix("response.") for kind, _ in events]


def call(index: int, name: str | None = None, arguments: str = "") -> Any:
    piece: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name:
        piece |= {"id": f"c{index}", "function": {"name": name, "arguments": arguments}}
    return says(tool_calls=[piece])


TEXT = (says(role="assistant", content=None), says(content="Ro"), says(content="me"))


def test_a_text() -> None:
    events = told(*TEXT, says("stop"))

    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    created, completed = events[0][1]["response"], events[-1][1]["response"]
    assert created["output"] == []
    assert (created["model"], created["created_at"]) == ("m", 1_800_000_000)
    assert created["status"] == "in_progress"
    assert completed["status"] == "completed"
    assert completed["output"] == [events[-2][1]["item"]]
    assert completed["output"][0]["content"][0]["text"] == "Rome"
    assert created.keys() == completed.keys()
    for kind, fields in events[2:-1]:
        assert fields["output_index"] == 0, kind
    for kind, fields in events[3:-2]:
        assert fields["content_index"] == 0, kind
        assert fields["item_id"] == completed["output"][0]["id"]


def test_a_thought_a_text_and_two_calls_are_four_items() -> None:
    events = told(
        says(reasoning_content="hm"),
        says(content="I call"),
        call(0, "f"),
        call(0, None, '{"a":'),
        call(0, None, "1}"),
        call(1, "g", "{}"),
        says("tool_calls"),
    )

    output = events[-1][1]["response"]["output"]
    kinds_of = [item["type"] for item in output]
    assert kinds_of == ["reasoning", "message", "function_call", "function_call"]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert [item.get("arguments") for item in output[2:]] == ['{"a":1}', "{}"]
    assert [item.get("call_id") for item in output[2:]] == ["c0", "c1"]
    added = [f for kind, f in events if kind == "response.output_item.added"]
    assert [fields["output_index"] for fields in added] == [0, 1, 2, 3]
    assert [fields["item"]["id"] for fields in added] == [item["id"] for item in output]
    for kind, fields in events:
        if "item_id" in fields:
            assert fields["item_id"] == output[fields["output_index"]]["id"], kind


def test_thoughts_are_shown_as_summaries_and_sealed_where_that_is_asked_for() -> None:
    events = told(says(reasoning_content="hm"), says(content="x"), of=asked(summarises=True))
    sealed = told(says(reasoning_content="hm"), says(content="x"), of=asked(seals=True))

    assert "reasoning_summary_text.delta" in kinds(events)
    thought = events[-1][1]["response"]["output"][0]
    assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert thought["encrypted_content"] is None
    assert sealed[-1][1]["response"]["output"][0]["encrypted_content"] == "moe-proxy:hm"


def test_custom_tools_and_namespaces_are_told_as_they_were_offered() -> None:
    tools = Tools(custom=frozenset({"patch"}), spaces={"git__log": ("git", "log")})
    events = told(
        call(0, "patch", '{"inp'),
        call(0, None, 'ut": "a\\nb"}'),
        call(1, "git__log", "{}"),
        of=asked(tools=tools),
    )

    custom, spaced = events[-1][1]["response"]["output"]
    assert (custom["type"], custom["input"]) == ("custom_tool_call", "a\nb")
    assert ("response.custom_tool_call_input.done") in [kind for kind, _ in events]
    assert (spaced["namespace"], spaced["name"]) == ("git", "log")


def test_an_answer_that_was_cut_says_so() -> None:
    response = told(*TEXT, says("length"))[-1][1]["response"]

    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None


def test_an_answer_of_nothing() -> None:
    events = told(says(role="assistant", content=None), says("stop"))

    assert kinds(events) == ["created", "in_progress", "completed"]
    assert events[-1][1]["response"]["output"] == []


def test_counts() -> None:
    usage = {
        **{"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    events = told(*TEXT, says("stop"), {"choices": [], "usage": usage, "timings": {"n": 1}})

    assert events[0][1]["response"]["usage"] is None
    assert events[-1][1]["response"]["usage"] == {
        **{"input_tokens": 5, "input_tokens_details": {"cached_tokens": 3}},
        **{"output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}},
        "total_tokens": 7,
    }
    assert events[-1][1]["timings"] == {"n": 1}


def test_probabilities() -> None:
    token = {"id": 1, "token": "x", "bytes": [120], "logprob": -1.0}
    choice = {
        "delta": {"content": "x"},
        "logprobs": {"content": [{**token, "top_logprobs": [token] * 2}]},
    }
    for most in (0, 1):
        events = told({"choices": [choice]}, of=asked(top_logprobs=most))

        said = {"token": "x", "bytes": [120], "logprob": -1.0}
        expected = [{**said, "top_logprobs": [said] * most}]
        (delta,) = [f for kind, f in events if kind == "response.output_text.delta"]
        assert delta["logprobs"] == expected
        assert events[-1][1]["response"]["output"][0]["content"][0]["logprobs"] == expected
