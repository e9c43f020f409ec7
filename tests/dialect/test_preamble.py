"""What a model says before every conversation."""

import json
from typing import Any

import pytest

from proxy.catalog.entry import Message
from proxy.dialect.body import Body
from proxy.dialect.preamble import Preamble, add_preamble

USER = {"role": "user", "content": "hi"}
KEPT = (Message("user", "a"), Message("assistant", "b"))
OPENING = Preamble("be brief", KEPT)
SAID = [{"role": m.role, "content": m.content} for m in KEPT]
SYSTEM = {"role": "system", "content": "be brief"}


def with_preamble(data: bytes, preamble: Preamble) -> bytes:
    body = Body(data)
    add_preamble(body, preamble)
    return body.encode()


def opened(body: Any, preamble: Preamble = OPENING) -> Any:
    return json.loads(with_preamble(json.dumps(body).encode(), preamble))


def test_a_chat() -> None:
    own = {"role": "system", "content": "x"}
    developer = {"role": "developer", "content": "x"}

    assert opened({"messages": [USER]})["messages"] == [SYSTEM, *SAID, USER]
    for first in (own, developer):
        assert opened({"messages": [first, USER]})["messages"] == [first, *SAID, USER]
    late = opened({"messages": [USER, own]})["messages"]
    assert late == [SYSTEM, *SAID, USER, own], "as with Ollama, only the first message counts"


def test_one_of_the_two_is_enough() -> None:
    said = opened({"messages": [USER]}, Preamble("be brief"))["messages"]
    assert said == [SYSTEM, USER]
    assert opened({"messages": [USER]}, Preamble(None, KEPT))["messages"] == [*SAID, USER]


def test_a_conversation_of_systems_only() -> None:
    own = {"role": "system", "content": "x"}
    assert opened({"messages": [own]})["messages"] == [own, *SAID]


def test_what_else_there_is_stays_as_it_is() -> None:
    body = (
        b'{ "model":"m",  "seed": 1.50, "messages": [ {"role": "user",  "content": "\\u00e9"} ] }'
    )

    assert with_preamble(body, Preamble()) == body
    made = with_preamble(body, OPENING)
    assert b'"seed":1.50' in made
    assert b'{"role": "user",  "content": "\\u00e9"}' in made


@pytest.mark.parametrize("body", [b'{"messages": 5}', b'{"messages": []}', b"{}"])
def test_what_makes_no_sense_is_left_to_the_engine(body: bytes) -> None:
    assert with_preamble(body, OPENING) == body


def test_messages_of_no_known_shape_are_kept() -> None:
    assert opened({"messages": [1, {"role": 2}]})["messages"][-2:] == [1, {"role": 2}]
