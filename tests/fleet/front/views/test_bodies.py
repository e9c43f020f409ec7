"""What a front reads of bodies to know whom to ask."""

from typing import Any

import pytest

from proxy.fleet.front.views.bodies import fields_of, name_in


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b"model"])
def test_what_is_no_json_object_has_no_fields(body: bytes) -> None:
    """It is passed on all the same, for a node to say so."""
    assert fields_of(body) == {}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"model": "a", "name": "b"}, "a"),
        ({"model": "", "name": "b"}, "b"),
        ({"model": 7, "name": "b"}, "b"),
        ({"model": None}, ""),
        ({}, ""),
    ],
)
def test_the_first_that_is_a_name(fields: dict[str, Any], name: str) -> None:
    assert name_in(fields, "model", "name") == name
