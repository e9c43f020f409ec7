"""Answers that go out changed."""

import json
import re

import pytest

from proxy.dialect.rewrite import Whole, chained, engine_error, streamed
from proxy.errors import DeadlinePassed

TOO_LONG = b"""{"error":{"code":400,"message":"request (2008 tokens) exceeds the available context
size (1024 tokens)","type":"exceed_context_size_error","n_prompt_tokens":2008,"n_ctx":1024}}"""
EVENT = b'data: {"choices":[{"delta":{"content":"say data: {\\"error\\": 1}"}}]}\n\n'


def through(status: int, body: bytes, path: str = "/v1/chat/completions") -> dict:
    rewrite = engine_error(status, path)
    pieces = [rewrite.feed(body[at : at + 7]) for at in range(0, len(body), 7)]
    return json.loads(b"".join((*pieces, rewrite.end())))


def test_a_prompt_that_is_too_long_is_told_as_openai_tells_it() -> None:
    error = through(400, TOO_LONG.replace(b"\n", b" "))["error"]

    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    known = ("maximum context length is 1024 tokens", "prompt is too long", "the context window")
    assert [words for words in known if words not in error["message"]] == []
    assert error["message"].endswith("ctx in the model's policy, or num_ctx in options")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (2008, 1024)


@pytest.mark.parametrize(
    ("status", "told", "kind", "code"),
    [
        (400, {"code": 400, "type": "invalid_request_error"}, "invalid_request_error", None),
        (500, {"code": 500, "type": "server_error"}, "server_error", None),
        (501, {"code": 501, "type": "not_supported_error"}, "server_error", "not_supported_error"),
        (503, {"code": 503, "type": "unavailable_error"}, "server_error", "unavailable_error"),
        (429, {"code": "slow_down"}, "rate_limit_error", "slow_down"),
        (404, {}, "invalid_request_error", "engine_error"),
    ],
)
def test_no_code_is_a_number(status: int, told: dict, kind: str, code: str | None) -> None:
    error = through(status, json.dumps({"error": {**told, "message": "no"}}).encode())["error"]

    assert error == {
        **{"message": "no", "type": kind, "param": None},
        "code": code or told["type"],
    }


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": 5}', b"[" * 5000, b"null"])
def test_what_is_no_error_that_is_known_is_one_nevertheless(body: bytes) -> None:
    error = through(502, body)["error"]

    assert error["message"] == "the engine answered with an error"
    assert error["type"] == "server_error"


def test_each_protocol_has_its_own_shape() -> None:
    told = through(400, TOO_LONG.replace(b"\n", b" "), "/v1/messages")
    message = told["error"]["message"]

    assert told == {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    assert re.fullmatch(r"prompt is too long: \d+ tokens > \d+ maximum", message), (
        "the words by which Claude Code knows it"
    )


def test_an_error_at_the_end_of_a_stream_is_told_like_any_other() -> None:
    rewrite = streamed("/v1/completions")(True)
    assert rewrite is not None
    told = b'data: {"error":{"code":500,"message":"no","type":"server_error"}}\n\n'

    assert rewrite.feed(EVENT) == EVENT, "a text that looks like one is none"
    assert rewrite.feed(EVENT + told).removeprefix(EVENT) == (
        b'data: {"error":{"message":"no","type":"server_error","param":null,'
        b'"code":"server_error"}}\n\n'
    )
    assert rewrite.end() == b""
    assert rewrite.fail(DeadlinePassed("late")) is None
    assert streamed("/v1/completions")(False) is None


def test_an_answer_in_one_piece_is_changed_as_a_whole() -> None:
    rewrite = Whole(bytes.upper)

    assert rewrite.feed(b"a") == rewrite.feed(b"b") == b""
    assert rewrite.end() == b"AB"


def test_an_answer_that_is_changed_twice() -> None:
    def shout(streams: bool) -> Whole:
        return Whole(bytes.upper)

    rewrite = chained(shout, lambda streams: Whole(lambda body: body + b"!"))(True)
    assert rewrite is not None
    assert rewrite.feed(b"a") == rewrite.feed(b"b") == b""
    assert rewrite.end() == b"AB!"
    for alone in (chained(shout, None), chained(shout, lambda streams: None)):
        once = alone(False)
        assert isinstance(once, Whole)
