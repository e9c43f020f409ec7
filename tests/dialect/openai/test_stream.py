"""The answer as it goes out."""

import json
from typing import Any

import pytest

from proxy.dialect.openai.requests import REPEATED, Asked
from proxy.dialect.openai.response import Response
from proxy.dialect.openai.stream import counted, responding
from proxy.dialect.rewrite import Rewrite
from proxy.errors import DeadlinePassed, EngineSaid

CHUNKS: tuple[Any, ...] = (
    {"model": "m", "choices": [{"delta": {"role": "assistant", "content": None}}]},
    {"model": "m", "choices": [{"delta": {"content": "é"}, "finish_reason": None}]},
    {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"model": "m", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
)
STREAM = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in CHUNKS)
DONE = b"data: [DONE]\n\n"


def rewrite(kept: list[Any], streams: bool) -> Rewrite:
    asked = Asked({}, [], REPEATED)
    made = responding(lambda: Response(asked, lambda prefix: prefix, lambda: 5.0), kept.append)
    found = made(streams)
    assert found is not None
    return found


def events(data: bytes) -> list[Any]:
    blocks = [block.split(b"\ndata: ") for block in data.split(b"\n\n") if block]
    found = [(name.removeprefix(b"event: ").decode(), json.loads(told)) for name, told in blocks]
    for number, (name, event) in enumerate(found):
        assert (event["type"], event["sequence_number"]) == (name, number)
    return [event for _, event in found]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_however_the_bytes_come_the_events_are_the_same(size: int) -> None:
    kept: list[Any] = []
    stream = rewrite(kept, streams=True)
    data = STREAM + DONE
    out = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size))
    made = events(out + stream.end())

    assert made[-1]["type"] == "response.completed"
    assert kept == [made[-1]["response"]]
    assert stream.content_type == "text/event-stream"


def test_a_stream_without_its_mark_of_the_end_is_whole_when_it_ends() -> None:
    kept: list[Any] = []
    stream = rewrite(kept, streams=True)

    assert events(stream.feed(STREAM) + stream.end())[-1]["type"] == "response.completed"
    assert stream.end() == b""
    assert len(kept) == 1


def test_signs_of_life_pass() -> None:
    assert rewrite([], streams=True).feed(b":\n\n") == b":\n\n"


def test_an_error_is_the_last_event_and_nothing_is_kept() -> None:
    kept: list[Any] = []
    stream = rewrite(kept, streams=True)
    told = b'data: {"error": {"code": 500, "message": "no", "type": "server_error"}}\n\n'
    made = events(stream.feed(STREAM + told + STREAM) + stream.end())

    assert made[-1]["type"] == "error"
    assert made[-1]["error"]["code"] == made[-1]["code"] == "server_error"
    assert kept == []


def test_an_error_of_ours_has_the_next_number() -> None:
    stream = rewrite([], streams=True)
    out = stream.feed(STREAM)

    late = stream.fail(DeadlinePassed("too late"))
    assert late is not None
    assert events(out + late)[-1]["error"]["code"] == "deadline_exceeded"
    assert stream.end() == b""


def test_an_answer_in_one_piece_has_the_items_of_a_stream() -> None:
    kept: list[Any] = []
    message = {"role": "assistant", "content": "é"}
    answer = {
        **{"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]},
        "usage": CHUNKS[-1]["usage"],
    }
    whole = rewrite(kept, streams=False)
    assert whole.feed(json.dumps(answer).encode()) == b""
    made = json.loads(whole.end())

    stream = rewrite([], streams=True)
    streamed = events(stream.feed(STREAM) + stream.end())[-1]["response"]
    assert made == streamed == kept[0]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"choices": 5}'])
def test_what_is_no_answer_of_a_chat_is_an_error(body: bytes) -> None:
    whole = rewrite([], streams=False)
    whole.feed(body)
    with pytest.raises(EngineSaid, match="none of a chat"):
        whole.end()


def test_what_is_no_event_of_a_chat_is_an_error() -> None:
    with pytest.raises(EngineSaid):
        rewrite([], streams=True).feed(b"data: <html>\n\n")


def test_numbers_of_tokens_say_what_they_are() -> None:
    whole = counted(False)
    whole.feed(b'{"input_tokens": 5}')

    assert json.loads(whole.end()) == {"object": "response.input_tokens", "input_tokens": 5}


def test_a_prompt_that_is_read_begins_no_response() -> None:
    """Until it begins, another worker may answer."""
    progress = json.dumps(CHUNKS[0] | {"prompt_progress": {"total": 9, "processed": 1}})
    stream = rewrite([], streams=True)

    assert stream.feed(b"data: %s\n\n" % progress.encode()) == b""
    assert events(stream.feed(STREAM))[0]["type"] == "response.created"


def test_a_call_that_has_begun_with_the_prompt_is_not_lost() -> None:
    """So llama-server tells one that has to be made."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}
    begun = {"model": "m", "choices": [{"delta": {"tool_calls": [call]}}], "prompt_progress": {}}
    stream = rewrite([], streams=True)

    told = events(stream.feed(b"data: %s\n\n" % json.dumps(begun).encode()))

    assert told[-1]["item"]["name"] == "f"
