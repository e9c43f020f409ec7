"""What clients send, and what they mean by it."""

import json
from typing import Any

import msgspec
import pytest

from proxy.dialect.lenient import mend_text, read_object
from tests.fuzz.bounds import little_time

FACE = "\N{GRINNING FACE}"
MISSING = "\ufffd"


def meant(data: bytes) -> Any:
    return json.loads(read_object(data).encode())


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (rb"Hi \ud83d", f"Hi {MISSING}"),
        (rb"\uDE00 there", f"{MISSING} there"),
        (rb"\ud83d\ud83d\ude00\ude00", MISSING + FACE + MISSING),
        (rb"\ud83d\n\ude00", f"{MISSING}\n{MISSING}"),
        (rb"\\ud83d", r"\ud83d"),  # a backslash, and letters
        (rb"\\\ud83d\\ude00", "\\" + MISSING + r"\ude00"),
        (b"caf\xe9 \xfc\xe8", f"caf{MISSING} {MISSING}{MISSING}"),
        (b"cut \xf0\x9f\x98", f"cut {MISSING * 3}"),  # as Go, one for each byte
        (b"\xed\xa0\xbd", MISSING * 3),  # a half, written as UTF-8 does not allow
        (FACE.encode() + rb" \ud83d\ude00 \"", f'{FACE} {FACE} "'),
    ],
)
def test_what_is_no_text_becomes_a_sign_that_something_was_there(sent: bytes, text: str) -> None:
    body = b'{"model": "m", "x": {"y": ["' + sent + b'"]}}'

    assert meant(body) == {"model": "m", "x": {"y": [text]}}
    assert meant(b'{"' + sent + b'": 1}') == {text: 1}


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m",  "messages":[{"role":"user","content":"caf\xc3\xa9 \\ud83d\\ude00"}]}',
        b'\n{"model": "m", "top_p": 1.0, "seed": 18446744073709551616, "a": [null]} \r\n',
        b'{"prompt": "x: null, and \\"Role\\" and \\"Content\\": null"}',
        b'{"messages": [{"role": "assistant", "content": null, "tool_calls": []}]}',
        b'{"tools":[{"function":{"parameters":{"properties":{"Role":{"default":null}}}}}]}',
        b'{"response_format":{"json_schema":{"schema":{"enum":["a",null],"default":null}}}}',
        b'{"messages":[{"content":[{"type":"tool_use","input":{"Text":null}}]}]}',
        b'{"logitBias": 1, "camelCase": {"Model": null}}',
    ],
)
def test_what_means_what_it_says_goes_on_byte_for_byte(body: bytes) -> None:
    assert read_object(body).encode() == body


@pytest.mark.parametrize("behind", [b"}", b"]", b" garbage", b'\n{"model": "b"}', b"\0", b"\xe9"])
def test_what_stands_behind_the_object_is_left_out(behind: bytes) -> None:
    assert read_object(b' {"model": "m"}' + behind).encode() == b' {"model": "m"}'


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{", b'{"a": 1', b'{"a" 1} x', b"nothing", b'{"a": "\\ud8"}', b"[]", b"1"]
)
def test_what_is_no_object_stays_none(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_object(body)


def test_what_is_nested_too_deep_is_told_as_that() -> None:
    with pytest.raises(RecursionError):
        read_object(b'{"a": ' + b"[" * 20_000)


def test_so_it_is_in_schemas_but_for_values() -> None:
    schema = {"type": "object", "properties": None, "required": None, "const": None}
    inner = {"properties": {"required": {"type": "string", "enum": None, "default": None}}}
    clean = {"type": "object", "const": None}
    sent = {
        "tools": [{"function": {"parameters": {**schema, "items": [schema, inner]}}}],
        "format": {**schema, "anyOf": [None, schema]},
        "response_format": {"json_schema": {"name": None, "schema": inner}},
    }

    assert meant(json.dumps(sent).encode()) == {
        "tools": [{"function": {"parameters": {**clean, "items": [clean, inner]}}}],
        "format": {**clean, "anyOf": [None, clean]},
        "response_format": {"json_schema": {"schema": inner}},
    }


def test_null_is_nothing_where_a_field_may_be_absent() -> None:
    call = {"id": None, "type": "function", "function": {"name": "f", "arguments": {"x": None}}}
    tool = {"name": "f", "description": None, "strict": None, "parameters": {"default": None}}
    sent = {
        "model": "m",
        "stop": None,
        "encoding_format": None,
        "messages": [
            {"role": "user", "content": "null", "name": None, "images": None},
            {"role": "assistant", "content": None, "reasoning_content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": None, "content": [{"type": "text", "x": None}]},
        ],
        "tools": [{"type": "function", "function": tool, "id": None}],
        "tool_choice": None,
    }

    assert meant(json.dumps(sent).encode()) == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "null"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": {"x": None}}}
                ],
            },
            {"role": "tool", "content": [{"type": "text"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}],
    }


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ({"Model": "m", "MESSAGES": [{"Role": "user", "CONTENT": "X"}]}, None),
        ({"model": "m", "messages": [{"Role": "user", "Content": "X"}]}, None),
        ({"Model": "m", "Options": {"Seed": 1}}, {"model": "m", "options": {"Seed": 1}}),
        ({"Model": "a", "model": "b"}, {"model": "b"}),
        ({"model": "a", "Model": "b"}, {"model": "b"}),
        ({"MaxTokens": 1, "Max_Tokens": 2}, {"MaxTokens": 1, "max_tokens": 2}),
        (
            {"Tools": [{"Function": {"Name": "F", "Parameters": {"Type": "object"}}}]},
            {"tools": [{"function": {"name": "F", "parameters": {"Type": "object"}}}]},
        ),
    ],
)
def test_names_of_fields_may_be_in_capitals(sent: Any, wanted: Any) -> None:
    """As in Ollama the later one counts; what users name themselves stays as it is."""
    talk = {"model": "m", "messages": [{"role": "user", "content": "X"}]}

    assert meant(json.dumps(sent).encode()) == (wanted or talk)


def test_what_was_in_capitals_is_mentioned() -> None:
    """Who looks at a body looks for bytes first."""
    body = read_object(b'{"Tools": [1], "Tool_Choice": "required", "Echo": true}')

    for name in (b'"tools"', b'"tool_choice"', b'"echo"'):
        assert body.mentions(name)


def test_it_takes_little_time() -> None:
    """Also for what is written to take long: each half, each backslash, is looked at once."""
    hard = (b"\\\\" * 500_000, b"\\ud83d" * 200_000, b"\\ud83d\\ude00" * 100_000, b"\xe9" * 10**6)
    with little_time():
        for text in hard:
            mend_text(b'{"a":"' + text + b'"}')
        read_object(b'{"messages":[' + b'{"name":null},' * 50_000 + b"1]}")
        with pytest.raises(msgspec.DecodeError):
            read_object(b'{"a":[' + b"{}," * 2_000_000 + b"]")
        read_object(b'{"a":[' + b"{}," * 2_000_000 + b"1]}}")
        read_object(b'{"Model":"m","messages":' + b"[" * 900 + b"]" * 900 + b"}")
