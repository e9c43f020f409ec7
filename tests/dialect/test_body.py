"""Bodies that go on to an engine."""

import json
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.body import Body
from proxy.dialect.synonyms import LENGTHS


def defaulted(data: bytes, params: Mapping[str, object]) -> bytes:
    body = Body(data)
    body.add_defaults(params)
    return body.encode()


def test_defaults_go_in_front_and_the_rest_stays_as_it_came() -> None:
    body = b' {\n "model" : "a", "seed":1 }'

    assert defaulted(body, {"seed": 2, "top_k": 3}) == b' {"top_k":3,\n "model" : "a", "seed":1 }'
    assert defaulted(body, {"seed": 2}) is body
    assert defaulted(body, {}) is body
    assert defaulted(b"{}", {"seed": 2}) == b'{"seed":2}'


@given(st.dictionaries(st.text(), st.integers()), st.dictionaries(st.text(), st.integers()))
def test_a_request_counts_more_than_defaults(
    asked: dict[str, int], defaults: dict[str, int]
) -> None:
    body = json.dumps(asked).encode()

    assert json.loads(defaulted(body, defaults)) == defaults | asked


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("by_another", LENGTHS)
def test_a_length_counts_by_whatever_name_a_request_has_for_it(name: str, by_another: str) -> None:
    body = json.dumps({name: 9}).encode()

    assert json.loads(defaulted(body, {by_another: 3, "seed": 1})) == {"seed": 1, name: 9}


def test_what_was_not_changed_stays_as_it_came() -> None:
    body = Body(b' {"a": 1.50,  "b": [ "\\u00e9" ], "c": null}')
    body.add_defaults({"z": 0, "a": 2})
    body.change({"c": [msgspec.Raw(b"1.0")]})

    assert body.encode() == b'{"z":0,"a":1.50,"b":[ "\\u00e9" ],"c":[1.0]}'
    assert json.loads(bytes(body.fields["c"])) == [1.0]


def test_what_was_put_in_front_is_seen_by_those_who_come_after() -> None:
    body = Body(b"{}")
    body.add_defaults({"tool_choice": "none"})

    assert body.mentions(b'"tool_choice"')
    assert body.fields["tool_choice"] == msgspec.Raw(b'"none"')
