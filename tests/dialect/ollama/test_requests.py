"""Bodies as clients send them."""

import math

import pytest

from proxy.dialect.ollama.requests import (
    Body,
    ChatBody,
    ChatMessage,
    EmbedBody,
    GenerateBody,
    check_images,
    read,
)
from proxy.errors import BadRequest

DEEP = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"


def test_options_are_read() -> None:
    assert Body(options={"num_cpu_moe": 3}).read_options().split == 3


def test_nulls_are_nothing() -> None:
    names = ("model", "prompt", "images", "options", "stream", "format", "think", "keep_alive")
    body = read(("{" + ",".join(f'"{name}":null' for name in names) + "}").encode(), GenerateBody)
    body.check()

    assert body == GenerateBody()
    assert body.streams
    assert body.keep_alive_s is None


def test_what_is_not_known_is_not_looked_at() -> None:
    assert read(b'{"model":"m","later":[1]}', ChatBody) == ChatBody(model="m")


@pytest.mark.parametrize("body", [b"", b"  \n", b"{", b"[]", b'{"model":1}', b'"\xff"', DEEP])
def test_bodies_that_are_none(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body, ChatBody)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), ("0", 0), (-1, math.inf), ("-1m", math.inf), ("10m", 600), (90, 90), (1.5, 1.5)],
)
def test_keep_alive(value: object, seconds: float) -> None:
    assert Body(keep_alive=value).keep_alive_s == seconds


@pytest.mark.parametrize("value", ["soon", True, [], {}])
def test_keep_alive_that_is_none(value: object) -> None:
    with pytest.raises(BadRequest, match="keep_alive"):
        _ = Body(keep_alive=value).keep_alive_s


@pytest.mark.parametrize(
    ("value", "schema"), [(None, None), ("", None), ("json", {}), ({"type": "a"}, {"type": "a"})]
)
def test_formats(value: object, schema: object) -> None:
    assert ChatBody(format=value).schema == schema


@pytest.mark.parametrize("value", ["yaml", 3, ["json"]])
def test_formats_that_are_none(value: object) -> None:
    with pytest.raises(BadRequest, match="invalid format"):
        ChatBody(format=value).check()


@pytest.mark.parametrize(
    ("value", "thinks"), [(None, False), (False, False), (True, True), ("low", True)]
)
def test_thinking(value: bool | str | None, thinks: bool) -> None:
    body = ChatBody(think=value)
    body.check()

    assert body.thinks is thinks


def test_what_cannot_be_asked_together() -> None:
    for body in (
        GenerateBody(raw=True, system="s"),
        GenerateBody(raw=True, template="t"),
        GenerateBody(raw=True, context=[1]),
        GenerateBody(raw=True, images=["aGk="]),
        GenerateBody(suffix="x", images=["aGk="]),
        GenerateBody(think="a lot"),
        GenerateBody(top_logprobs=-1),
    ):
        with pytest.raises(BadRequest):
            body.check()


@pytest.mark.parametrize(
    "body",
    [
        GenerateBody(raw=True),
        GenerateBody(system="s", template="t", context=[1]),
        GenerateBody(images=["aGk="]),
        GenerateBody(suffix="x"),
        GenerateBody(top_logprobs=20),
    ],
)
def test_what_can_be_asked(body: GenerateBody) -> None:
    body.check()


def test_texts_to_embed() -> None:
    assert EmbedBody(input="a").texts == ["a"]
    assert EmbedBody(input=["a", ""]).texts == ["a", ""]
    assert EmbedBody(input="").texts == []
    assert EmbedBody().texts == []
    for wrong in (1, [1], {"a": 1}, [["a"]]):
        with pytest.raises(BadRequest, match="invalid input type"):
            _ = EmbedBody(input=wrong).texts


def test_images() -> None:
    with pytest.raises(BadRequest, match="base64"):
        ChatBody(messages=[ChatMessage(images=["?"])]).check()
    check_images(None)
    check_images(["aGk="])
    with pytest.raises(BadRequest, match="base64"):
        check_images(["aGk=", "data:image/png;base64,aGk="])
