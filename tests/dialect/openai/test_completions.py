"""Plain completions in the shape of old."""

import json
import math
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.openai.completions import PATH, translate
from proxy.dialect.rewrite import Rewrite
from proxy.errors import BadRequest, DeadlinePassed, EngineSaid


def token(text: str, logprob: float, *others: Any) -> Any:
    told = {"id": 1, "token": text, "bytes": list(text.encode()), "logprob": logprob}
    return {**told, "top_logprobs": [told, *others]} if others else told


B, C = token("b", -1.0, token("x", -2.0)), token("cd", -0.5, token("y", -3.0))


def rewrite(fields: Any, *, streams: bool = False) -> tuple[Any, Rewrite]:
    translated = translate(PATH, Body.of({"prompt": "a", **fields}))
    assert translated is not None
    assert translated.target == PATH
    made = translated.rewriter(streams)
    assert made is not None
    return json.loads(translated.body.encode()), made


def choice(text: str, *tokens: Any, index: int = 0) -> Any:
    logprobs = {"content": list(tokens)} if tokens else None
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": None}


def whole(fields: Any, *choices: Any) -> list[Any]:
    made = rewrite(fields)[1]
    assert made.feed(json.dumps({"choices": choices, "model": "m"}).encode()) == b""
    answer = json.loads(made.end())
    assert answer["model"] == "m"
    return list(answer["choices"])


def test_logprobs() -> None:
    (made,) = whole({"logprobs": 2}, choice("bcd", B, C))

    assert made["logprobs"] == {
        "tokens": ["b", "cd"],
        "token_logprobs": [-1.0, -0.5],
        "top_logprobs": [{"b": -1.0, "x": -2.0}, {"cd": -0.5, "y": -3.0}],
        "text_offset": [0, 1],
    }


def test_none_but_the_one_that_was_chosen() -> None:
    sent, _ = rewrite({"logprobs": 0})
    (made,) = whole({"logprobs": 0}, choice("b", B))

    assert sent["logprobs"] == 1, "with 0 an engine tells nothing"
    assert made["logprobs"]["top_logprobs"] == [{"b": -1.0}]
    assert made["logprobs"]["token_logprobs"] == [-1.0]


def test_a_part_of_a_character_and_a_probability_after_sampling() -> None:
    part = {"token": "", "bytes": [0xE2, 0x82], "prob": 0.5, "top_probs": []}
    never = {"token": "n", "bytes": [110], "prob": 0.0}
    (made,) = whole({"logprobs": 1}, choice("x", part, never))

    assert made["logprobs"]["tokens"] == ["bytes:\\xe2\\x82", "n"]
    assert made["logprobs"]["token_logprobs"] == [math.log(0.5), None]


def test_prompts_are_repeated_before_their_answers() -> None:
    sent, _ = rewrite({"echo": True})
    (one,) = whole({"echo": True}, choice("b"))
    several = whole(
        {"echo": True, "prompt": ["a", "z"], "n": 2},
        *(choice("b", index=index) for index in range(4)),
    )

    assert sent["echo"] is False
    assert one["text"] == "ab"
    assert [each["text"] for each in several] == ["ab", "ab", "zb", "zb"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream(size: int) -> None:
    pieces = [{"choices": [choice("b", B)]}, {"choices": [choice("cd", C)]}, {"choices": []}]
    data = b"".join(b"data: %s\n\n" % json.dumps(piece).encode() for piece in pieces)
    data += b"data: [DONE]\n\n"
    _, made = rewrite({"logprobs": 1}, streams=True)
    out = b"".join(made.feed(data[at : at + size]) for at in range(0, len(data), size))
    told = [line.removeprefix(b"data: ") for line in out.split(b"\n\n") if line]

    assert told[-1] == b"[DONE]"
    first, second, last = map(json.loads, told[:-1])
    assert first["choices"][0]["logprobs"]["text_offset"] == [0]
    assert second["choices"][0]["logprobs"]["text_offset"] == [1]
    assert last == {"choices": []}
    assert made.end() == b""
    assert made.fail(DeadlinePassed("late")) is None


def test_a_stream_repeats_each_prompt_once() -> None:
    _, made = rewrite({"echo": True}, streams=True)
    piece = b'data: {"choices": [{"text": "b", "index": 0}]}\n\n'

    out = made.feed(b":\n\n") + made.feed(piece) + made.feed(piece)
    assert out.startswith(b":\n\n")
    assert [json.loads(line[6:])["choices"][0]["text"] for line in out.split(b"\n\n")[1:3]] == [
        "ab",
        "b",
    ]


def test_an_error_in_a_stream() -> None:
    _, made = rewrite({"logprobs": 1}, streams=True)
    told = made.feed(b'data: {"error": {"code": 500, "message": "no", "type": "server_error"}}\n\n')

    assert json.loads(told[6:])["error"]["code"] == "server_error"


def test_what_is_no_answer_is_an_error() -> None:
    _, whole = rewrite({"logprobs": 1})
    whole.feed(b"5")
    with pytest.raises(EngineSaid, match="none of a completion"):
        whole.end()
    with pytest.raises(EngineSaid, match="none of a completion"):
        rewrite({"logprobs": 1}, streams=True)[1].feed(b"data: 5\n\n")


@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": None}, {"echo": False}, {"stop": '"echo"'}, {"echo": None}]
)
def test_others_pass_as_they_come(fields: Any) -> None:
    assert translate(PATH, Body.of({"prompt": "a", **fields})) is None
    assert translate("/completion", Body.of({"logprobs": 1})) is None


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
            "array",
        ),
        ({"type": "json_object", "schema": {"type": "array"}}, "array"),
        ({"type": "json_object"}, "object"),
        ({"type": "json_schema"}, "object"),
        ({"type": "text"}, None),
        (5, None),
    ],
)
def test_a_format_is_said_as_engines_obey_it(given: Any, schema: str | None) -> None:
    body = Body.of({"prompt": "a", "response_format": given})

    assert translate(PATH, body) is None

    wanted = {"json_schema": {"type": schema}} if schema else {}
    assert json.loads(body.encode()) == {"prompt": "a", "response_format": given} | wanted
    body = Body.of({"grammar": "root ::= x", "response_format": given})
    assert translate(PATH, body) is None
    assert "json_schema" not in json.loads(body.encode())


def test_no_probabilities_in_the_words_of_chats() -> None:
    body = Body.of({"prompt": "a", "logprobs": False})

    assert translate(PATH, body) is None
    assert json.loads(body.encode()) == {"prompt": "a", "logprobs": None}
    assert rewrite({"logprobs": 2.0})[0]["logprobs"] == 2


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": "a", "logprobs": 1, "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": "a", "logprobs": 0, "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": [1, 2], "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "invalid_request_error"),
        ({"prompt": "a", "logprobs": 1.5}, "logprobs", "invalid_request_error"),
        ({"prompt": "a", "logprobs": -1}, "logprobs", "invalid_request_error"),
        ({"prompt": "a", "logprobs": "5"}, "logprobs", "invalid_request_error"),
    ],
)
def test_what_cannot_be_had_is_refused(fields: Any, param: str, code: str) -> None:
    with pytest.raises(BadRequest) as error:
        translate(PATH, Body.of(fields))
    assert (error.value.param, error.value.code) == (param, code)
