"""JSON that is a call, as a call."""

import json
from typing import Any

import pytest

from proxy.dialect.called import CallScanner, call_rewriter
from proxy.errors import EngineSaid

ROME = '{"name": "f", "arguments": {"city": "Ro\\"}me{", "at": [1, {"a": {}}]}}'
OSLO = '{\n"name"\n:\n"g\\u00e9"\n,\n"arguments"\n:\n{ }\n}'
COMPACT = '{"city":"Ro\\"}me{","at":[1,{"a":{}}]}'


def scanned(text: str, size: int) -> dict[int, list[str]]:
    scanner, found = CallScanner(), {}
    for at in range(0, len(text), size):
        for piece in scanner.feed(text[at : at + size]):
            if piece.name is not None:
                found[piece.index] = [piece.name, ""]
            found[piece.index][1] += piece.arguments
    assert scanner.rest() == ""
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_however_it_is_cut(size: int) -> None:
    assert scanned(ROME, size) == {0: ["f", COMPACT]}
    assert scanned(f"[{ROME}, {OSLO} ]", size) == {0: ["f", COMPACT], 1: ["gé", "{}"]}
    assert scanned(f"[ {OSLO},{ROME}", size) == {0: ["gé", "{}"], 1: ["f", COMPACT]}


def test_arguments_come_as_soon_as_they_are_there() -> None:
    scanner = CallScanner()

    assert [piece.name for piece in scanner.feed('{"name": "f", "arguments":')] == ["f"]
    assert [piece.arguments for piece in scanner.feed(' {"city": "Ro')] == ['{"city":"Ro']
    assert [piece.arguments for piece in scanner.feed("me\n")] == ["me\n"]


def test_what_is_no_call() -> None:
    scanner = CallScanner()

    assert list(scanner.feed("It is sunny.")) == []
    assert scanner.rest() == "It is sunny."


def chunk(delta: Any, finish: str | None = None, index: int = 0) -> bytes:
    told = {"model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
    return b"data: %s\n\n" % json.dumps(told).encode()


def rewritten(*chunks: bytes) -> list[Any]:
    stream = call_rewriter(streams=True)
    out = b"".join(map(stream.feed, chunks)) + stream.end()
    return [
        json.loads(data.removeprefix(b"data: ")) for data in out.split(b"\n\n") if data[6:7] == b"{"
    ]


def test_a_stream() -> None:
    begins = chunk({"role": "assistant", "content": None})
    thinks = chunk({"reasoning_content": "I think"})
    text = [chunk({"content": part}) for part in (ROME[:20], ROME[20:30], ROME[30:])]
    events = rewritten(begins, thinks, *text, chunk({}, "stop"), b"data: [DONE]\n\n")

    first, second, *calls, last = [event["choices"][0] for event in events]
    assert first["delta"] == {"role": "assistant", "content": None}
    assert second["delta"] == {"reasoning_content": "I think"}
    assert last["finish_reason"] == "tool_calls"
    (named, *others) = [call for choice in calls for call in choice["delta"]["tool_calls"]]
    assert named["function"]["name"] == "f"
    assert (named["type"], len(named["id"])) == ("function", 9)
    assert others[0].keys() == {"index", "function"}
    assert "".join(call["function"]["arguments"] for call in (named, *others)) == COMPACT
    assert all("content" not in choice["delta"] for choice in calls)


def test_the_end_of_a_stream_stays() -> None:
    stream = call_rewriter(streams=True)
    usage = b'data: {"choices":[],"usage":{"total_tokens":1}}\n\n'

    assert stream.feed(usage + b"data: [DONE]\n\n") == usage + b"data: [DONE]\n\n"
    broken = b'data: {"error":{"message":"x"}}\n\n'
    assert stream.feed(broken) == broken


def test_each_answer_of_several_by_itself() -> None:
    events = rewritten(
        chunk({"content": ROME[:20]}, index=0),
        chunk({"content": OSLO}, index=1),
        chunk({"content": ROME[20:]}, index=0),
    )
    names = [
        (choice["index"], call["function"]["name"])
        for event in events
        for choice in event["choices"]
        for call in choice["delta"]["tool_calls"]
        if "name" in call["function"]
    ]

    assert names == [(1, "gé"), (0, "f")]


def test_one_that_was_cut() -> None:
    events = rewritten(chunk({"content": ROME[:40]}), chunk({}, "length"))

    assert events[0]["choices"][0]["delta"]["tool_calls"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    before = rewritten(chunk({"content": '{"na'}), chunk({}, "length"))
    assert before[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "length"}


def test_an_engine_that_did_not_obey_is_heard() -> None:
    events = rewritten(chunk({"content": "It is "}), chunk({"content": "sunny"}), chunk({}, "stop"))

    assert [event["choices"][0]["delta"] for event in events] == [{"content": "It is sunny"}]
    assert events[0]["choices"][0]["finish_reason"] == "stop"


def whole(content: str | None, finish: str = "stop") -> Any:
    rewrite = call_rewriter(streams=False)
    message = {"role": "assistant", "content": content, "reasoning_content": "I think"}
    told = {"choices": [{"message": message, "finish_reason": finish}], "usage": {}}
    assert rewrite.feed(json.dumps(told).encode()) == b""
    return json.loads(rewrite.end())["choices"][0]


def test_a_whole_answer() -> None:
    choice = whole(f"[{ROME},{OSLO}]")

    calls = [call["function"] for call in choice["message"]["tool_calls"]]
    assert calls == [{"name": "f", "arguments": COMPACT}, {"name": "gé", "arguments": "{}"}]
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"] == "I think"
    assert choice["finish_reason"] == "tool_calls"
    assert whole("It is sunny")["message"]["content"] == "It is sunny"
    assert whole(None, "length")["finish_reason"] == "length"
    for begun in ('{\n "name" :"f', "[", ROME[:15]):
        cut = whole(begun, "length")
        assert cut["message"]["content"] is None, "as in a stream"
        assert "tool_calls" not in cut["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices": [{}]}', b'{"choices": 5}'])
def test_an_answer_that_makes_no_sense(body: bytes) -> None:
    rewrite = call_rewriter(streams=False)
    rewrite.feed(body)

    with pytest.raises(EngineSaid, match="made no sense"):
        rewrite.end()


@pytest.mark.parametrize("told", [{"choices": [5]}, {"choices": [{"delta": {"content": 5}}]}])
def test_a_stream_that_makes_no_sense(told: Any) -> None:
    with pytest.raises(EngineSaid, match="made no sense"):
        call_rewriter(streams=True).feed(b"data: %s\n\n" % json.dumps(told).encode())


def test_how_far_the_prompt_is_goes_out_as_it_comes() -> None:
    progress = b'data: {"choices": [{"delta": {"content": null}}], "prompt_progress": {"x": 1.50}}'
    stream = call_rewriter(streams=True)

    assert stream.feed(progress + b"\n\n") == progress + b"\n\n"
